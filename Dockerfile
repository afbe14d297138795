# The one image: operator, gateway and runner are modes of the one binary.
# Build the binary first: cargo build --release --locked
ARG BASE=debian:trixie-slim
FROM ${BASE}
ARG BINARY=target/release/funcatron
COPY --chmod=0555 ${BINARY} /usr/bin/funcatron
USER 65532:65532
ENTRYPOINT ["/usr/bin/funcatron"]
