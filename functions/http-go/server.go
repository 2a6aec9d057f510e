// A plain HTTP server. It knows nothing of nanofaas but the variable PORT.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"
)

const (
	events    = 3
	eventTime = 100 * time.Millisecond
	drainTime = 30 * time.Second
)

func root(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "application/json")
	answer := map[string]string{"server": "go", "method": r.Method, "url": r.RequestURI}
	if err := json.NewEncoder(w).Encode(answer); err != nil {
		log.Printf("cannot answer: %v", err)
	}
}

// echo returns each piece of the body as it comes.
func echo(w http.ResponseWriter, r *http.Request) {
	kind := r.Header.Get("Content-Type")
	if kind == "" {
		kind = "application/octet-stream"
	}
	w.Header().Set("Content-Type", kind)
	control := http.NewResponseController(w)
	// Without this, the server would read the whole body before the first piece is sent.
	if err := control.EnableFullDuplex(); err != nil {
		log.Printf("no full duplex: %v", err)
	}
	piece := make([]byte, 16*1024)
	for {
		n, err := r.Body.Read(piece)
		if n > 0 {
			if _, failed := w.Write(piece[:n]); failed != nil {
				return
			}
			_ = control.Flush() // A client that has left fails the next write.
		}
		if errors.Is(err, io.EOF) {
			return
		}
		if err != nil {
			// This cuts the answer, so that the client cannot take it for complete.
			panic(http.ErrAbortHandler)
		}
	}
}

func stream(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "text/event-stream")
	w.Header().Set("Cache-Control", "no-store")
	control := http.NewResponseController(w)
	for number := 1; number <= events; number++ {
		fmt.Fprintf(w, "data: %d\n\n", number)
		_ = control.Flush() // A client that has left ends the context.
		select {
		case <-time.After(eventTime):
		case <-r.Context().Done():
			return
		}
	}
}

func main() {
	port := os.Getenv("PORT")
	if port == "" {
		port = "8080"
	}
	// The paths are compared by hand, because a ServeMux redirects paths such as //.
	paths := map[string]http.HandlerFunc{"/": root, "/echo": echo, "/invoke": echo, "/events": stream}
	handler := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		found, ok := paths[r.URL.Path]
		if !ok {
			w.WriteHeader(http.StatusNotFound)
			return
		}
		found(w, r)
	})
	server := http.Server{Addr: ":" + port, Handler: handler, ReadHeaderTimeout: 10 * time.Second}
	stop, release := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer release()
	drained := make(chan struct{})
	go func() {
		defer close(drained)
		<-stop.Done()
		limit, cancel := context.WithTimeout(context.Background(), drainTime)
		defer cancel()
		if err := server.Shutdown(limit); err != nil {
			log.Printf("calls were cut: %v", err)
		}
	}()
	if err := server.ListenAndServe(); !errors.Is(err, http.ErrServerClosed) {
		log.Fatal(err)
	}
	<-drained
}
