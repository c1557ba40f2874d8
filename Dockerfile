# The command `qnet` in a container, with PyTorch's CPU build or the one for NVIDIA GPUs:
#
#   docker build --tag qnet .
#   docker build --tag qnet:cuda --build-arg TORCH=cuda .
#   docker run --rm --volume "$PWD:/work" --user "$(id -u):$(id -g)" qnet segment --scans scans --outlined … --output outlined
#   docker run --rm --gpus all --volume "$PWD:/work" --user "$(id -u):$(id -g)" qnet:cuda train …
#
# The labelling page answers to its own machine alone: give it  --network host  and  label FOLDER --no-browser.
ARG PYTHON=3.11
FROM python:${PYTHON}-slim

# what OpenCV loads of the system; its version does not matter
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends libgl1 libglib2.0-0 \
    && rm -rf /var/lib/apt/lists/*

ARG TORCH=cpu
ARG TORCH_CPU_INDEX=https://download.pytorch.org/whl/cpu
COPY requirements.txt /source/
WORKDIR /source
SHELL ["/bin/bash", "-o", "pipefail", "-c"]
RUN case "$TORCH" in cpu|cuda) ;; *) echo "error: TORCH: got '$TORCH', allowed: cpu, cuda" >&2; exit 2 ;; esac \
    && sed '/^--editable/d; s/ *#.*//' requirements.txt > pinned.txt \
    && if [[ $TORCH == cpu ]]; then \
           grep -E '^torch(vision)?==' pinned.txt > torch.txt \
           && pip install --no-cache-dir --index-url "$TORCH_CPU_INDEX" --requirement torch.txt; \
       fi \
    && pip install --no-cache-dir --requirement pinned.txt

COPY . /source/
RUN pip install --no-cache-dir --no-deps /source && rm -rf /source/*

# for whoever runs it: caches of libraries, where no home is
ENV PYTHONUTF8=1 HOME=/tmp NUMBA_CACHE_DIR=/tmp/numba MPLCONFIGDIR=/tmp/matplotlib
USER 65534:65534
WORKDIR /work
ENTRYPOINT ["qnet"]
CMD ["--help"]
