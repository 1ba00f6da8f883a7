# syntax=docker/dockerfile:1
# One binary on a small Debian. It runs as nobody in particular and writes to /data only.

FROM rust:1-slim-bookworm AS build
WORKDIR /src
COPY . .
# What is compiled is kept from build to build; a mount is not part of the layer, so the binary is
# copied out of it.
RUN --mount=type=cache,target=/usr/local/cargo/registry,sharing=locked \
    --mount=type=cache,target=/src/target,sharing=locked \
    cargo build --release --locked --bin ringback && cp target/release/ringback /ringback

# The trust anchors are compiled in, for a system that has none of its own: nothing is installed.
FROM debian:bookworm-slim
RUN useradd --system --uid 10001 --no-create-home --shell /usr/sbin/nologin ringback \
    && install --directory --owner=ringback --group=ringback --mode=0700 /data
COPY --from=build /ringback /usr/local/bin/ringback
COPY LICENSE LICENSE-MIT LICENSE-APACHE /usr/share/doc/ringback/

USER ringback
WORKDIR /data
VOLUME /data
ENV RINGBACK_LISTEN=0.0.0.0:8080 \
    RINGBACK_DATABASE_URL=sqlite:///data/ringback.db
EXPOSE 8080

# Alive, not ready: a container that waits for its database is not better for being restarted. The
# image has no curl; bash speaks enough HTTP.
HEALTHCHECK --interval=15s --timeout=3s --start-period=10s \
    CMD ["bash", "-c", "exec 3<>/dev/tcp/127.0.0.1/8080 && printf 'GET /healthz HTTP/1.1\\r\\nHost: localhost\\r\\nConnection: close\\r\\n\\r\\n' >&3 && read -r line <&3 && [[ $line == *' 200 '* ]]"]

# It is the first process, hears SIGTERM itself, and starts no others.
ENTRYPOINT ["ringback"]
CMD ["serve"]
