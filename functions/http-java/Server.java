import com.sun.net.httpserver.HttpExchange;
import com.sun.net.httpserver.HttpServer;
import java.io.IOException;
import java.io.InputStream;
import java.io.OutputStream;
import java.net.InetSocketAddress;
import java.nio.charset.StandardCharsets;
import java.util.Map;
import java.util.concurrent.Executors;
import java.util.concurrent.atomic.AtomicInteger;

/** A plain HTTP server. It knows nothing of nanofaas but the variable PORT. */
public final class Server {
    private static final int EVENTS = 3;
    private static final int EVENT_MS = 100;
    private static final int QUIET_MS = 2_000;
    private static final int DRAIN_MS = 30_000;

    private static final AtomicInteger RUNNING = new AtomicInteger();
    private static volatile long lastEnd = System.currentTimeMillis();

    private interface Handler {
        void handle(HttpExchange exchange) throws IOException;
    }

    private static final Map<String, Handler> PATHS = Map.of(
            "/", Server::root, "/echo", Server::echo, "/invoke", Server::echo, "/events", Server::events);

    private static void root(HttpExchange exchange) throws IOException {
        String text = "{\"server\":\"java\",\"method\":" + quoted(exchange.getRequestMethod())
                + ",\"url\":" + quoted(exchange.getRequestURI().toString()) + "}";
        byte[] body = text.getBytes(StandardCharsets.UTF_8);
        exchange.getResponseHeaders().set("Content-Type", "application/json");
        if (exchange.getRequestMethod().equals("HEAD")) {
            exchange.sendResponseHeaders(200, -1);
            return;
        }
        exchange.sendResponseHeaders(200, body.length);
        exchange.getResponseBody().write(body);
    }

    private static String quoted(String text) {
        return '"' + text.replace("\\", "\\\\").replace("\"", "\\\"") + '"';
    }

    /** Returns each piece of the body as it comes. */
    private static void echo(HttpExchange exchange) throws IOException {
        String kind = exchange.getRequestHeaders().getFirst("Content-Type");
        exchange.getResponseHeaders().set("Content-Type", kind == null ? "application/octet-stream" : kind);
        // The length 0 means chunks.
        exchange.sendResponseHeaders(200, 0);
        byte[] piece = new byte[16 * 1024];
        InputStream in = exchange.getRequestBody();
        OutputStream out = exchange.getResponseBody();
        for (int count = in.read(piece); count >= 0; count = in.read(piece)) {
            out.write(piece, 0, count);
            out.flush();
        }
    }

    private static void events(HttpExchange exchange) throws IOException {
        exchange.getResponseHeaders().set("Content-Type", "text/event-stream");
        exchange.getResponseHeaders().set("Cache-Control", "no-store");
        exchange.sendResponseHeaders(200, 0);
        OutputStream out = exchange.getResponseBody();
        for (int number = 1; number <= EVENTS; number++) {
            // After the client has left, the write fails and ends the stream.
            out.write(("data: " + number + "\n\n").getBytes(StandardCharsets.UTF_8));
            out.flush();
            try {
                Thread.sleep(EVENT_MS);
            } catch (InterruptedException stopped) {
                Thread.currentThread().interrupt();
                return;
            }
        }
    }

    private static void serve(HttpExchange exchange) throws IOException {
        RUNNING.incrementAndGet();
        try {
            Handler handler = PATHS.get(exchange.getRequestURI().getPath());
            if (handler == null) {
                exchange.sendResponseHeaders(404, -1);
            } else {
                handler.handle(exchange);
            }
            // The last chunk is sent only here: an exception of the handler cuts the answer.
            exchange.close();
        } finally {
            lastEnd = System.currentTimeMillis();
            RUNNING.decrementAndGet();
        }
    }

    /** Serves until no request runs and none has come for 2 s. */
    private static void drain() {
        long begun = System.currentTimeMillis();
        long now = begun;
        while (now - begun < DRAIN_MS && (RUNNING.get() > 0 || now - Math.max(begun, lastEnd) < QUIET_MS)) {
            try {
                Thread.sleep(20);
            } catch (InterruptedException stopped) {
                return;
            }
            now = System.currentTimeMillis();
        }
    }

    public static void main(String[] arguments) throws IOException {
        String port = System.getenv().getOrDefault("PORT", "8080");
        HttpServer server = HttpServer.create(new InetSocketAddress(Integer.parseInt(port)), 1024);
        server.createContext("/", Server::serve);
        server.setExecutor(Executors.newCachedThreadPool());
        server.start();
        Runtime.getRuntime().addShutdownHook(new Thread(Server::drain));
    }
}
