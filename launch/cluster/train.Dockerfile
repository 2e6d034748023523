# The image for training and export, on NVIDIA GPUs or CPUs:
#
#     docker build --file launch/cluster/train.Dockerfile --tag bertline-train .
#     docker run --gpus all --ipc host --stop-signal USR1 --stop-timeout 120 --volume "$PWD:/work" bertline-train train recipe.yaml
#
# When stopped, it finishes the current step and saves a checkpoint; --stop-timeout must allow for both, in seconds,
# since Docker kills it after 10 by default. On SIGUSR1 it takes as long as that; SIGTERM, the default, leaves 20 s.
#
# With --env HF_TOKEN it may read what is private on the hub; --env HF_HOME=/work/.huggingface keeps what it downloads. Other
# packages, such as tensorboard, go into an image built FROM this one (docs/cluster.md).
#
# torch's wheels include CUDA; the machine needs only NVIDIA's driver and container toolkit. nvcc and g++ are left out,
# because only DeepSpeed ops that a recipe's `deepspeed` section asks for would need them.
FROM python:3.11-slim

# NCCL loads these to use InfiniBand; without them it goes by TCP
RUN apt-get update \
    && apt-get install --yes --no-install-recommends libibverbs1 ibverbs-providers \
    && rm -r /var/lib/apt/lists/*

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
