# Reveille in one image: the program, and certificates for tls:// and https://. Nothing else: no compiler, no NATS server.
# `reveille up` is not for this image; its parts are (see docker-compose.yml).
#
#   docker build --tag reveille .
#
# A second target adds the stand-in LLM server, for the demo:
#
#   docker build --tag reveille-demo --target demo .

FROM rust:1.92-slim-bookworm AS build
WORKDIR /src
COPY . .
# The caches are the builder's own, so what is to be kept is copied out of them.
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/src/target \
    cargo build --locked --release --package reveille --package reveille-tests --bin reveille --bin stand-in-llm \
    && mkdir /out \
    && cp target/release/reveille target/release/stand-in-llm /out/

FROM debian:12.12-slim AS base
# An empty volume becomes its user's whose folder it is mounted over: so /etc/reveille/hub, where the keys of a hub go.
RUN apt-get update \
    && apt-get install --yes --no-install-recommends ca-certificates \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --system --uid 8420 --create-home --home-dir /var/lib/reveille reveille \
    && install --directory --owner=8420 --mode=0700 /etc/reveille/hub
COPY --from=build /out/reveille /usr/local/bin/
# By number, so that an engine that forbids root can tell that this isn't root.
USER 8420:8420
WORKDIR /var/lib/reveille
ENV REVEILLE_DATA_DIR=/var/lib/reveille
VOLUME /var/lib/reveille
ENTRYPOINT ["reveille"]
CMD ["--help"]

FROM base AS demo
COPY --from=build /out/stand-in-llm /usr/local/bin/

# The last one is what is built when no target is named.
FROM base AS reveille
