# Reveille in one image: the program, the NATS server for `reveille up`, and root certificates for tls:// and https://.
#
#   docker build --tag reveille .
#   docker run --rm --network host --volume reveille:/var/lib/reveille reveille up
#
# The second command is a hub at 127.0.0.1:8420. docker-compose.yml runs the separate services instead.
#
# A second target adds the stand-in LLM server, for the demo:
#
#   docker build --tag reveille-demo --target demo .

FROM rust:1.92-slim-bookworm AS build
WORKDIR /src
COPY . .
# The caches don't belong to the image, so the results are copied out of them.
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/src/target \
    cargo build --locked --release --package reveille --package reveille-tests --bin reveille --bin stand-in-llm \
    && mkdir /out \
    && cp target/release/reveille target/release/stand-in-llm /out/

# The version that docker-compose.yml runs.
FROM nats:2.12-alpine AS nats

FROM debian:12.12-slim AS base
# An empty volume gets the owner of the folder that it is mounted over, so this creates /etc/reveille/hub for the hub's keys.
RUN apt-get update \
    && apt-get install --yes --no-install-recommends ca-certificates \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --system --uid 8420 --create-home --home-dir /var/lib/reveille reveille \
    && install --directory --owner=8420 --mode=0700 /etc/reveille/hub
COPY --from=build /out/reveille /usr/local/bin/
# Where `reveille up` looks. It is linked statically, so it runs here too.
COPY --from=nats /usr/local/bin/nats-server /usr/local/lib/reveille/
# A number, so that an engine that forbids root can see that this isn't root.
USER 8420:8420
WORKDIR /var/lib/reveille
ENV REVEILLE_DATA_DIR=/var/lib/reveille
VOLUME /var/lib/reveille
ENTRYPOINT ["reveille"]
CMD ["--help"]

FROM base AS demo
COPY --from=build /out/stand-in-llm /usr/local/bin/

# The last target is the default.
FROM base AS reveille
