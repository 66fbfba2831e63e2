# Ossia on the CPU: the program, the C library that it was linked with, and nothing else. No shell, no packages, no root.
#
#   docker build -t ossia .                            compiles it
#   docker build -t ossia --build-arg PREBUILT=DIR .   takes DIR/ossia, which `cargo xtask dist` left under dist/
#
# docs/containers.md says how it is run and what of this was tried.

# Has Rust and a C compiler.
ARG BUILD_BASE=rust:1.95-bookworm
# Has the C library of BUILD_BASE or a newer one, and `ldd`.
ARG BASE=debian:12-slim

FROM ${BUILD_BASE} AS build
ARG PREBUILT=
ARG SOURCE_DATE_EPOCH=0
WORKDIR /src
COPY . .
RUN set -eu; \
    if [ -z "$PREBUILT" ]; then cargo xtask dist --out dist; PREBUILT=$(ls -d dist/ossia-*/); fi; \
    install -D -m 755 "$PREBUILT/ossia" /out/usr/local/bin/ossia; \
    for file in LICENSE THIRD-PARTY-LICENSES sbom.cdx.json; do \
        install -D -m 644 "$PREBUILT/$file" "/out/usr/share/doc/ossia/$file"; \
    done

FROM ${BASE} AS root
COPY --from=build /out /out
RUN set -eu; \
    for file in $(ldd /out/usr/local/bin/ossia | grep -o '/[^ )]*'); do \
        mkdir -p "/out$(dirname "$file")"; cp -L "$file" "/out$file"; \
    done; \
    mkdir -p /out/etc/ossia /out/models /out/var/lib/ossia /out/var/cache/ossia; \
    mkdir -m 1777 /out/tmp; \
    chmod 700 /out/var/lib/ossia; \
    chown 65532:65532 /out/var/lib/ossia /out/var/cache/ossia; \
    echo 'ossia:x:65532:65532:Ossia:/var/lib/ossia:/' > /out/etc/passwd; \
    echo 'ossia:x:65532:' > /out/etc/group; \
    echo 'hosts: files dns' > /out/etc/nsswitch.conf

FROM scratch
COPY --from=root /out /
# State and cache are written; the demo model is unpacked to /tmp.
ENV HOME=/var/lib/ossia XDG_DATA_HOME=/var/lib HF_HOME=/var/cache/ossia/huggingface
# Beyond loopback it serves with keys, certificates of clients or OSSIA_INSECURE only.
ENV OSSIA_HOST=0.0.0.0
USER 65532:65532
WORKDIR /var/lib/ossia
EXPOSE 8000
VOLUME /var/lib/ossia /var/cache/ossia
HEALTHCHECK --interval=10s --timeout=6s --start-period=30m CMD ["/usr/local/bin/ossia", "health"]
ENTRYPOINT ["/usr/local/bin/ossia"]
CMD ["serve"]
