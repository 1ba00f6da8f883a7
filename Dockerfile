# syntax=docker/dockerfile:1
# One binary on an image without a shell. It runs as an unprivileged user and writes to /data only.

FROM rust:1-slim-bookworm AS build
WORKDIR /src
COPY . .
# Build results are cached between builds. A mount is not part of the layer, so the binary is copied out of it. The
# folders are created here, because the final image has no shell.
RUN --mount=type=cache,target=/usr/local/cargo/registry,sharing=locked \
    --mount=type=cache,target=/src/target,sharing=locked \
    cargo build --release --locked --bin ringback \
    && install -D target/release/ringback /out/usr/local/bin/ringback \
    && install -D --mode=0644 --target-directory=/out/usr/share/doc/ringback LICENSE LICENSE-MIT LICENSE-APACHE \
    && install --directory --mode=0700 --owner=65532 --group=65532 /out/data

# Only the C library and trust anchors. The Debian version is the same as above, because the binary is linked to its C
# library.
FROM gcr.io/distroless/cc-debian12:nonroot
COPY --from=build /out /

USER 65532:65532
WORKDIR /data
VOLUME /data
ENV RINGBACK_LISTEN=0.0.0.0:8080 \
    RINGBACK_DATABASE_URL=sqlite:///data/ringback.db
EXPOSE 8080

# Checks that the process is alive, not that it is ready: a restart does not help while the database is unavailable.
HEALTHCHECK --interval=15s --timeout=3s --start-period=10s CMD ["ringback", "health"]

# Ringback is the first process: it handles SIGTERM and starts no other processes.
ENTRYPOINT ["ringback"]
CMD ["serve"]
