# The same function as an image whose user is root, as in most images.
FROM localhost/nanofaas-test:1
USER root
