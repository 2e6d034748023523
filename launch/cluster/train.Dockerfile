# The image that trains and exports, on NVIDIA GPUs or on CPUs:
#
#     docker build --file launch/cluster/train.Dockerfile --tag bertline-train .
#     docker run --gpus all --ipc host --stop-timeout 120 --volume "$PWD:/work" bertline-train train recipe.yaml
#
# When it is stopped it saves a checkpoint after the step that is under way: --stop-timeout allows for both, in seconds;
# without it Docker kills it after 10.
#
# torch's wheels bring CUDA; of the machine they need NVIDIA's driver and container toolkit alone. nvcc and g++ are left
# out: only DeepSpeed ops would need them that a recipe's `deepspeed` section asks for.
FROM python:3.11-slim

WORKDIR /opt/bertline
COPY pyproject.toml setup.py constraints.txt README.md LICENSE ./
COPY artifacts/ artifacts/
COPY tasks/ tasks/
COPY models/ models/
COPY serve/ serve/
COPY bench/ bench/
COPY export/ export/
COPY train/ train/
COPY launch/ launch/
COPY benchmarks/ benchmarks/
COPY bertline/ bertline/
RUN pip install --no-cache-dir --constraint constraints.txt '.[train,search,export,openvino]'

# compute for CUDA, utility for nvidia-smi, which counts the GPUs
ENV NVIDIA_DRIVER_CAPABILITIES=compute,utility

RUN useradd --create-home --uid 1000 bertline
USER 1000
WORKDIR /work
ENTRYPOINT ["bertline"]
