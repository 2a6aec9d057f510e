# The image of the same function with root as its user, as in most images.
FROM localhost/nanofaas-test:1
USER root
