# graftpop on CPUs.
#
#     docker build -t graftpop .
#     docker run --rm -it --shm-size 2g -v "$PWD/runs:/app/runs" graftpop tune --space search_spaces/digits.yaml
#
# Ray's dashboard listens inside the container only; with --network host it is at the printed address.
# PyTorch's default build for Linux includes CUDA. For a much smaller image, give the address of the CPU builds, which
# pytorch.org shows: docker build --build-arg PIP_EXTRA_INDEX_URL=ADDRESS -t graftpop .
FROM python:3.12-slim

ARG PIP_EXTRA_INDEX_URL
WORKDIR /app
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY graftpop graftpop
COPY search_spaces search_spaces
RUN pip install --no-cache-dir -c constraints.txt '.[pruning]' && rm -rf build graftpop.egg-info

ENTRYPOINT ["graftpop"]
CMD ["--help"]
