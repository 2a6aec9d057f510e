# The control plane. The binary comes from the host's `cargo build --release`, so this build needs
# no toolchain. The host's glibc must not be newer than Debian 12's.
FROM debian:bookworm-slim
COPY target/release/nanofaas /usr/local/bin/nanofaas
# The kubelet cannot check that a named user is not root.
USER 65532:65532
EXPOSE 8080 8081 8082
ENTRYPOINT ["nanofaas"]
CMD ["serve"]
