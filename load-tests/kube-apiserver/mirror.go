package main

import (
	"compress/gzip"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"time"
)

// mirrorPieces is how many pieces a slow answer comes in, mirrorInterval how
// far apart.
const (
	mirrorPieces   = 5
	mirrorInterval = 20 * time.Millisecond
)

// mostMirrored bounds what one answer of bytes may be asked for.
const mostMirrored = 64 << 20

// handleMirror adds, below prefix, answers that show what of a request arrives
// behind the apiserver, and that use as much of HTTP as a server behind it may:
// echo, redirect, trailers, gzip, status/{code}, slow, bytes/{count}, html,
// cookies and upgrade.
func handleMirror(mux *http.ServeMux, prefix string) {
	mux.HandleFunc(prefix+"/echo", mirrorEcho)
	mux.HandleFunc(prefix+"/echo/{rest...}", mirrorEcho)
	mux.HandleFunc(prefix+"/redirect", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Location", prefix+"/echo?redirected=1")
		w.WriteHeader(http.StatusFound)
	})
	mux.HandleFunc(prefix+"/trailers", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Trailer", "X-Mirror-Sum")
		_, _ = io.WriteString(w, "before the trailers\n")
		w.Header().Set("X-Mirror-Sum", "0123")
	})
	mux.HandleFunc(prefix+"/gzip", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Encoding", "gzip")
		w.Header().Set("Content-Type", "text/plain")
		packed := gzip.NewWriter(w)
		_, _ = io.WriteString(packed, "packed by the server behind\n")
		_ = packed.Close()
	})
	mux.HandleFunc(prefix+"/status/{code}", func(w http.ResponseWriter, r *http.Request) {
		code, err := strconv.Atoi(r.PathValue("code"))
		if err != nil || code < 200 || code > 599 {
			code = http.StatusBadRequest
		}
		w.Header().Set("Retry-After", "7")
		w.WriteHeader(code)
	})
	mux.HandleFunc(prefix+"/slow", func(w http.ResponseWriter, r *http.Request) {
		for piece := range mirrorPieces {
			_, _ = fmt.Fprintf(w, "piece %d\n", piece)
			_ = http.NewResponseController(w).Flush()
			select {
			case <-r.Context().Done():
				return
			case <-time.After(mirrorInterval):
			}
		}
	})
	mux.HandleFunc(prefix+"/bytes/{count}", mirrorBytes)
	mux.HandleFunc(prefix+"/html", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/html")
		_, _ = io.WriteString(w, `<html><body><a href="/mirror/echo">rewritten by the apiserver</a></body></html>`)
	})
	mux.HandleFunc(prefix+"/cookies", func(w http.ResponseWriter, _ *http.Request) {
		http.SetCookie(w, &http.Cookie{Name: "first", Value: "1"})
		http.SetCookie(w, &http.Cookie{Name: "second", Value: "2", HttpOnly: true})
	})
	mux.HandleFunc(prefix+"/upgrade", mirrorUpgrade)
}

// mirrorEcho says what arrived.
func mirrorEcho(w http.ResponseWriter, r *http.Request) {
	sum := sha256.New()
	length, err := io.Copy(sum, r.Body)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(map[string]any{
		"method":   r.Method,
		"uri":      r.RequestURI,
		"host":     r.Host,
		"headers":  r.Header,
		"trailers": r.Trailer,
		"length":   length,
		"sha256":   hex.EncodeToString(sum.Sum(nil)),
	})
}

func mirrorBytes(w http.ResponseWriter, r *http.Request) {
	count, err := strconv.Atoi(r.PathValue("count"))
	if err != nil || count < 0 || count > mostMirrored {
		http.Error(w, "how many?", http.StatusBadRequest)
		return
	}
	piece := make([]byte, 32<<10)
	for i := range piece {
		piece[i] = byte('a' + i%26)
	}
	for count > 0 {
		wrote, err := w.Write(piece[:min(count, len(piece))])
		if err != nil {
			return
		}
		count -= wrote
	}
}

// mirrorUpgrade becomes an echo of bytes.
func mirrorUpgrade(w http.ResponseWriter, r *http.Request) {
	if r.Header.Get("Upgrade") != "mirror" {
		http.Error(w, "no upgrade to mirror asked for", http.StatusUpgradeRequired)
		return
	}
	w.Header().Set("Connection", "Upgrade")
	w.Header().Set("Upgrade", "mirror")
	w.WriteHeader(http.StatusSwitchingProtocols)
	connection, buffered, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return
	}
	defer connection.Close()
	_, _ = io.Copy(connection, buffered)
}
