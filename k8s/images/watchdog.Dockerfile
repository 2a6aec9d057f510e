# Base image of functions that are any other program: use `FROM`, copy the program into /function,
# and set the function's `runtimeMode` and `runtimeCommand`. The binary comes from the host's `cargo
# build --release`, so this build needs no toolchain. The host's glibc must not be newer than Debian
# 12's.
FROM debian:bookworm-slim
COPY target/release/nanofaas-watchdog /usr/local/bin/nanofaas-watchdog
WORKDIR /function
# The kubelet cannot check that a named user is not root.
USER 65532:65532
EXPOSE 8080
ENTRYPOINT ["nanofaas-watchdog"]
