# Reveille in one image: the program and, for the demo, the stand-in LLM server.
#
#   docker build -t reveille .
#
# Not verified by the tests: they run without a container engine. The program inside is the one that they test.

FROM rust:1.92-bookworm AS build
WORKDIR /src
COPY . .
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/src/target \
    cargo build --locked --release --package reveille --package reveille-tests --bin reveille --bin stand-in-llm \
    && mkdir /out && cp target/release/reveille target/release/stand-in-llm /out/

FROM debian:bookworm-slim
# Certificates for tls:// and https://, and nothing else: no compiler, no NATS server. `reveille up` is not for this
# image; its parts are (see docker-compose.yml).
RUN apt-get update \
    && apt-get install --yes --no-install-recommends ca-certificates \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --system --uid 8420 --create-home --home-dir /var/lib/reveille reveille
COPY --from=build /out/ /usr/local/bin/
USER reveille
ENV REVEILLE_DATA_DIR=/var/lib/reveille
VOLUME /var/lib/reveille
ENTRYPOINT ["reveille"]
CMD ["--help"]
