# The image that trains and exports, on NVIDIA GPUs or on CPUs:
#
#     docker build --file launch/cluster/train.Dockerfile --tag bertline-train .
#     docker run --gpus all --ipc host --volume "$PWD:/work" bertline-train train recipe.yaml
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
RUN pip install --no-cache-dir --constraint constraints.txt '.[train,export]'

# compute for CUDA, utility for nvidia-smi, which counts the GPUs
ENV NVIDIA_DRIVER_CAPABILITIES=compute,utility

RUN useradd --create-home --uid 1000 bertline
USER 1000
WORKDIR /work
ENTRYPOINT ["bertline"]
