# The images: one static program, nothing else. It has the public certificate authorities in it.
#
#   docker build --build-arg DATALAB_VERSION=0.8.0 --tag datalab-upgrade:0.8.0 .
#   docker build --target upgrade-gate --tag upgrade-gate:0.2.0 .
#   docker buildx build --platform linux/amd64,linux/arm64 …
#
# `datalab-upgrade` has datalab's upgrades in it; `upgrade-gate`, the stock image, reads an application's
# upgrades from files. RUST_IMAGE needs Rust and a C compiler, for the platform that is built.

ARG RUST_IMAGE=docker.io/library/rust:1.95.0-slim-bookworm

FROM ${RUST_IMAGE} AS build
ARG PROFILE=release
# no folder leaves a trace in the programs: make release-check builds them in two
ARG FOLDER=/src
WORKDIR ${FOLDER}
# A step that runs makes the folder part of the layers' cache, which buildah 1.28 forgets otherwise.
RUN test "$PWD" = "$FOLDER"
COPY release/compile /

# The dependencies are a layer of their own, which only Cargo.toml and Cargo.lock change.
COPY Cargo.toml Cargo.lock ./
RUN for program in datalab-upgrade upgrade-gate; do \
        mkdir -p "src/bin/$program" && echo 'fn main() {}' >"src/bin/$program/main.rs"; \
    done \
    && : >src/lib.rs \
    && /compile "$PROFILE" --bins \
    && rm -r src

COPY README.md ./
COPY src src
ARG DATALAB_VERSION=0.8.0
# The copied files may be older than what was built from the empty ones.
RUN touch src/lib.rs src/bin/*/main.rs \
    && DATALAB_VERSION="$DATALAB_VERSION" /compile "$PROFILE" --bins \
    && cp target/*/"$PROFILE"/datalab-upgrade target/*/"$PROFILE"/upgrade-gate /

FROM scratch AS base
# what src/process/allocator.rs would set: the program need not start itself again
ENV GLIBC_TUNABLES=glibc.malloc.mmap_threshold=262144
USER 65532:65532
LABEL org.opencontainers.image.licenses="MIT" \
    org.opencontainers.image.source="https://github.com/datalab-org/upgrade-gate"

FROM base AS upgrade-gate
# the crate's version
ARG VERSION=0.2.0
LABEL org.opencontainers.image.title="upgrade-gate" \
    org.opencontainers.image.description="Decides whether an application may start on its MongoDB database, and applies upgrades from files to the database first when told to" \
    org.opencontainers.image.version="${VERSION}"
COPY --from=build /upgrade-gate /
ENTRYPOINT ["/upgrade-gate"]

# The last is what is built where no target is named.
FROM base AS datalab-upgrade
ARG DATALAB_VERSION=0.8.0
LABEL org.opencontainers.image.title="datalab-upgrade" \
    org.opencontainers.image.description="Decides whether datalab may start on its MongoDB database, and upgrades the database first when told to" \
    org.opencontainers.image.version="${DATALAB_VERSION}"
COPY --from=build /datalab-upgrade /
ENTRYPOINT ["/datalab-upgrade"]
