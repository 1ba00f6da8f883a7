# syntax=docker/dockerfile:1
# One binary on an image without a shell. It runs as nobody in particular and writes to /data only.

FROM rust:1-slim-bookworm AS build
WORKDIR /src
COPY . .
# What is compiled is kept from build to build; a mount is not part of the layer, so the binary is
# copied out of it. A folder cannot be made on an image without a shell either.
RUN --mount=type=cache,target=/usr/local/cargo/registry,sharing=locked \
    --mount=type=cache,target=/src/target,sharing=locked \
    cargo build --release --locked --bin ringback \
    && install -D target/release/ringback /out/usr/local/bin/ringback \
    && install -D --mode=0644 --target-directory=/out/usr/share/doc/ringback LICENSE LICENSE-MIT LICENSE-APACHE \
    && install --directory --mode=0700 --owner=65532 --group=65532 /out/data

# The C library, trust anchors, and nothing else. The same Debian as above: the binary is linked to
# its C library.
FROM gcr.io/distroless/cc-debian12:nonroot
COPY --from=build /out /

USER 65532:65532
WORKDIR /data
VOLUME /data
ENV RINGBACK_LISTEN=0.0.0.0:8080 \
    RINGBACK_DATABASE_URL=sqlite:///data/ringback.db
EXPOSE 8080

# Alive, not ready: a container that waits for its database is not better for being restarted.
HEALTHCHECK --interval=15s --timeout=3s --start-period=10s CMD ["ringback", "health"]

# It is the first process, hears SIGTERM itself, and starts no others.
ENTRYPOINT ["ringback"]
CMD ["serve"]
