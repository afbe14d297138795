# The one image: operator, gateway, runner, bridge and ledger are modes of the one binary.
# The context is a folder with the binary that `cargo build --release --locked` made; the base brings glibc and the
# certificate authorities.
ARG BASE=buildpack-deps:trixie-curl
FROM ${BASE}
COPY --chmod=0555 funcatron /usr/bin/funcatron
# Memory that nobody has touched is not to be taken: with huge pages, idle connections cost twice as much.
ENV MIMALLOC_ALLOW_THP=0
USER 65532:65532
ENTRYPOINT ["/usr/bin/funcatron"]
