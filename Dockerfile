# SPDX-License-Identifier: Apache-2.0
# Neap in a container:  docker build -t neap . && docker run --rm neap policy list
# Recordings and results travel by a volume:  docker run --rm -v "$PWD:/work" neap replay --trace trace.csv --slots 4
# For the CPU. NEAP_NATIVE=off: the program runs on other processors than the one that built it.
FROM debian:12-slim AS build
RUN apt-get update && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends \
    gcc libc6-dev cmake ninja-build pkg-config libluajit-5.1-dev libopenblas-dev \
    libopenmpi-dev openmpi-bin zlib1g-dev liblzma-dev libzstd-dev libsqlite3-dev lua-argparse lua-dkjson
COPY . /neap
RUN cmake -S /neap -B /build -G Ninja -DNEAP_CUDA=off -DNEAP_NATIVE=off && ninja -C /build \
    neap libneap cdef && cmake --install /build --prefix /usr/local

FROM debian:12-slim
# The texts french and russian are manual pages, which this image's dpkg leaves out.
RUN printf 'path-include /usr/share/man/%s/*\n' fr ru >/etc/dpkg/dpkg.cfg.d/neap && \
    apt-get update && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends \
    libluajit-5.1-2 libopenblas0-pthread libopenmpi3 openmpi-bin zlib1g liblzma5 libzstd1 libsqlite3-0 \
    lua-argparse lua-dkjson lua-http dict-gcide golang-1.19-src manpages-fr manpages-ru \
    && rm -rf /var/lib/apt/lists/*
COPY --from=build /usr/local /usr/local
RUN ldconfig
WORKDIR /work
ENTRYPOINT ["neap"]
