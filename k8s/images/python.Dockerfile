# Base image of functions in Python:
#   FROM localhost/nanofaas-python:0.1.0
#   COPY handler.py .
#   RUN python3 -m compileall -q .
# Install packages as root: `USER root`, `RUN pip install --no-cache-dir ...`, `USER 65532`.
FROM python:3.11-slim-bookworm

COPY python-runtime/src/nanofaas_runtime /opt/nanofaas/nanofaas_runtime

# The runtime is linked into the site folder, because a function may need PYTHONPATH for itself. The
# build compiles the runtime and the standard library, because official Python images lack bytecode,
# which each start would have to compile. Python must not check the runtime's bytecode against its
# source: the source does not change, and a build tool may reset file times.
RUN site="$(python3 -c 'import sysconfig; print(sysconfig.get_path("purelib"))')" && \
    stdlib="$(python3 -c 'import sysconfig; print(sysconfig.get_path("stdlib"))')" && \
    mkdir -p "$site" && \
    ln -s /opt/nanofaas/nanofaas_runtime "$site/nanofaas_runtime" && \
    python3 -m compileall -q --invalidation-mode unchecked-hash /opt/nanofaas && \
    python3 -m compileall -q -j 0 "$stdlib" \
        -x '/(test|tests|idlelib|lib2to3|turtledemo|site-packages|dist-packages)/' && \
    install -d -o 65532 -g 65532 /function

WORKDIR /function
# The kubelet cannot check that a named user is not root.
USER 65532:65532
EXPOSE 8080
ENTRYPOINT ["python3", "-m", "nanofaas_runtime"]
