# The same as an image that needs root, as most images are: the last word on its user is root.
FROM localhost/nanofaas-test:1
USER root
