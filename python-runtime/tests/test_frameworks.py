"""Applications of real frameworks, unchanged. A framework that is not installed is skipped."""

from __future__ import annotations

import importlib.util
import re

import pytest
from pods import Answer, Pod, Start, http, wait_for

FASTAPI = """
    import asyncio, os
    from contextlib import asynccontextmanager
    from fastapi import FastAPI, Request, UploadFile
    from starlette.responses import StreamingResponse

    @asynccontextmanager
    async def lifespan(app):
        yield {"from": "startup"}
        open("down", "w").close()

    app = FastAPI(lifespan=lifespan)

    @app.get("/hello/{name}")
    def hello(name: str, request: Request):
        return {"hello": name, "url": str(request.url), "state": request.state._state}

    @app.get("/events")
    async def events():
        async def values():
            yield "data: one\\n\\n"
            while not os.path.exists("go"): await asyncio.sleep(0.005)
            yield "data: two\\n\\n"
        return StreamingResponse(values(), media_type="text/event-stream")

    @app.post("/upload")
    async def upload(file: UploadFile):
        return {"name": file.filename, "size": len(await file.read())}
"""
STARLETTE = """
    import asyncio, os
    from starlette.applications import Starlette
    from starlette.responses import JSONResponse, StreamingResponse
    from starlette.routing import Route

    async def hello(request):
        return JSONResponse({"hello": request.path_params["name"], "url": str(request.url)})

    async def events(request):
        async def values():
            yield "data: one\\n\\n"
            while not os.path.exists("go"): await asyncio.sleep(0.005)
            yield "data: two\\n\\n"
        return StreamingResponse(values(), media_type="text/event-stream")

    async def upload(request):
        async with request.form() as form:
            file = form["file"]
            return JSONResponse({"name": file.filename, "size": len(await file.read())})

    app = Starlette(routes=[Route("/hello/{name}", hello), Route("/events", events),
                            Route("/upload", upload, methods=["POST"])])
"""
FLASK = """
    import os, time
    from flask import Flask, Response, request

    app = Flask(__name__)

    @app.get("/hello/<name>")
    def hello(name): return {"hello": name, "url": request.url}

    @app.get("/events")
    def events():
        def values():
            yield "data: one\\n\\n"
            while not os.path.exists("go"): time.sleep(0.005)
            yield "data: two\\n\\n"
        return Response(values(), mimetype="text/event-stream")

    @app.post("/upload")
    def upload():
        file = request.files["file"]
        return {"name": file.filename, "size": len(file.read())}
"""
DJANGO = """
    import os, time
    import django
    from django.conf import settings

    settings.configure(
        ALLOWED_HOSTS=["*"], SECRET_KEY="k", ROOT_URLCONF="handler", USE_TZ=True,
        INSTALLED_APPS=["django.contrib." + name for name in (
            "admin", "auth", "contenttypes", "sessions", "messages", "staticfiles")],
        MIDDLEWARE=["django.contrib.sessions.middleware.SessionMiddleware",
                    "django.middleware.csrf.CsrfViewMiddleware",
                    "django.contrib.auth.middleware.AuthenticationMiddleware",
                    "django.contrib.messages.middleware.MessageMiddleware"],
        TEMPLATES=[{{"BACKEND": "django.template.backends.django.DjangoTemplates",
                    "APP_DIRS": True, "OPTIONS": {{"context_processors": [
                        "django.template.context_processors.request",
                        "django.contrib.auth.context_processors.auth",
                        "django.contrib.messages.context_processors.messages"]}}}}],
        DATABASES={{"default": {{"ENGINE": "django.db.backends.sqlite3", "NAME": "db"}}}},
        STATIC_URL="static/")
    django.setup()

    from django.contrib import admin
    from django.http import JsonResponse, StreamingHttpResponse
    from django.urls import path
    from django.views.decorators.csrf import csrf_exempt

    def hello(request, name):
        return JsonResponse({{"hello": name, "url": request.build_absolute_uri()}})

    {word}def values():
        yield "data: one\\n\\n"
        while not os.path.exists("go"): time.sleep(0.005)
        yield "data: two\\n\\n"

    def events(request):
        return StreamingHttpResponse(values(), content_type="text/event-stream")

    @csrf_exempt
    def upload(request):
        file = request.FILES["file"]
        return JsonResponse({{"name": file.name, "size": len(file.read())}})

    urlpatterns = [path("hello/<name>", hello), path("events", events), path("upload", upload),
                   path("admin/", admin.site.urls)]

    from django.core.management import call_command
    call_command("migrate", verbosity=0)
    from django.contrib.auth.models import User
    User.objects.create_superuser("root", password="secret")
    from django.core.{kind} import get_{kind}_application
    app = get_{kind}_application()
"""
SOURCES = {
    "fastapi": FASTAPI, "starlette": STARLETTE, "flask": FLASK,
    "django-wsgi": DJANGO.format(kind="wsgi", word=""),
    "django-asgi": DJANGO.format(kind="asgi", word="async ").replace(
        "time.sleep", "await __import__('asyncio').sleep"),
}
NEEDS = {"fastapi": ("fastapi", "multipart"), "starlette": ("starlette", "multipart")}
PREFIX = "/fn/x"


def started(start: Start, name: str) -> Pod:
    for module in NEEDS.get(name, (name.partition("-")[0],)):
        if importlib.util.find_spec(module) is None:
            pytest.skip(f"{module} is not installed")
    return start(SOURCES[name], HANDLER_APP="handler:app").ready()


@pytest.fixture(params=SOURCES)
def pod(request: pytest.FixtureRequest, start: Start) -> Pod:
    return started(start, request.param)


def call(pod: Pod, *args: object, **headers: object) -> Answer:
    with pod.connect() as client:
        client.send(http(*args, x_forwarded_prefix=PREFIX, **headers))
        return client.answer()


def test_hello(pod: Pod) -> None:
    answer = call(pod, "GET", "/hello/you?a=1", x_execution_id="e1")
    found = answer.json()
    assert (answer.status, found["hello"]) == (200, "you")
    assert found["url"] == "http://pod/fn/x/hello/you?a=1"
    assert found.get("state", {"from": "startup"}) == {"from": "startup"}
    assert answer.all("x-nanofaas-answer") == ["e1"]
    assert call(pod, "GET", "/other").status == 404


def test_server_sent_events(pod: Pod) -> None:
    with pod.connect() as client:
        client.send(http("GET", "/events"))
        head = client.head()
        assert head.headers["content-type"].startswith("text/event-stream")
        assert client.piece() == b"data: one\n\n"
        (pod.folder / "go").touch()
        assert client.pieces() == [b"data: two\n\n", b""]
    assert call(pod, "GET", "/hello/you").status == 200


def test_an_upload(pod: Pod) -> None:
    body = (b"--b\r\nContent-Disposition: form-data; name=\"file\"; filename=\"f.bin\"\r\n"
            b"Content-Type: application/octet-stream\r\n\r\n" + b"x" * 2_000_000
            + b"\r\n--b--\r\n")
    answer = call(pod, "POST", "/upload", body, "multipart/form-data; boundary=b")
    assert answer.json() == {"name": "f.bin", "size": 2_000_000}


@pytest.mark.parametrize("name", ["django-wsgi", "django-asgi"])
def test_the_admin_of_django(start: Start, name: str) -> None:
    pod = started(start, name)
    answer = call(pod, "GET", "/admin/")
    assert answer.status == 302
    assert answer.headers["location"] == "/fn/x/admin/login/?next=/fn/x/admin/"
    page = call(pod, "GET", "/admin/login/?next=/fn/x/admin/")
    assert page.status == 200 and b"Django administration" in page.body
    token = re.search(rb'name="csrfmiddlewaretoken" value="(\w+)"', page.body)[1].decode()
    cookie = page.headers["set-cookie"].partition(";")[0]
    form = f"csrfmiddlewaretoken={token}&username=root&password=secret&next=/fn/x/admin/"
    answer = call(pod, "POST", "/admin/login/", form.encode(),
                  "application/x-www-form-urlencoded", cookie=cookie)
    assert (answer.status, answer.headers["location"]) == (302, "/fn/x/admin/")
    session = next(line.partition(";")[0] for line in answer.all("set-cookie")
                   if line.startswith("sessionid="))
    page = call(pod, "GET", "/admin/", cookie=session)
    assert page.status == 200 and b"Site administration" in page.body


def test_the_lifespan_of_fastapi(start: Start) -> None:
    pod = started(start, "fastapi")
    pod.term()
    assert pod.exit_status() == 0
    wait_for((pod.folder / "down").exists)
