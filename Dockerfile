# The gate's image: one static program, the certificate authorities, nothing else.
#
#   docker build --build-arg DATALAB_VERSION=0.8.0 --tag datalab-upgrade:0.8.0 .
#   docker buildx build --platform linux/amd64,linux/arm64 …
#
# RUST_IMAGE needs Rust, a C compiler and ca-certificates, for the platform that is built.

ARG RUST_IMAGE=docker.io/library/rust:1.95.0-slim-bookworm

FROM ${RUST_IMAGE} AS build
ARG PROFILE=release
WORKDIR /src
# Packed, the relative relocations take 4 kB instead of 227. A linker that cannot do it says so, and links.
ENV RUSTFLAGS="-C target-feature=+crt-static -C link-arg=-Wl,-z,pack-relative-relocs"
# A named target, if only the machine's own: otherwise the flag would reach procedural macros, which
# cannot be static.
RUN rustc -vV | sed -n 's/^host: //p' >/triple

# The dependencies are a layer of their own, which only Cargo.toml and Cargo.lock change.
COPY Cargo.toml Cargo.lock ./
RUN mkdir -p src/bin/datalab-upgrade \
    && : >src/lib.rs \
    && echo 'fn main() {}' >src/bin/datalab-upgrade/main.rs \
    && cargo build --locked --profile "$PROFILE" --target "$(cat /triple)" --bin datalab-upgrade

COPY README.md ./
COPY src src
ARG DATALAB_VERSION=0.8.0
# The copied files may be older than what was built from the empty ones.
RUN touch src/lib.rs src/bin/datalab-upgrade/main.rs \
    && DATALAB_VERSION="$DATALAB_VERSION" \
        cargo build --locked --profile "$PROFILE" --target "$(cat /triple)" --bin datalab-upgrade \
    && cp "target/$(cat /triple)/$PROFILE/datalab-upgrade" /datalab-upgrade

FROM scratch
ARG DATALAB_VERSION=0.8.0
LABEL org.opencontainers.image.title="datalab-upgrade" \
    org.opencontainers.image.description="Decides whether datalab may start on its MongoDB database, and upgrades the database first when told to" \
    org.opencontainers.image.licenses="MIT" \
    org.opencontainers.image.version="${DATALAB_VERSION}"
COPY --from=build /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/
COPY --from=build /datalab-upgrade /
# what src/process/allocator.rs would set: the program need not start itself again
ENV GLIBC_TUNABLES=glibc.malloc.mmap_threshold=262144
USER 65532:65532
ENTRYPOINT ["/datalab-upgrade"]
