package main

import (
	"io"
	"maps"
	"mime"
	"net/http"
	"slices"
	"strconv"
	"sync"
	"time"
)

// observer sees every request below client-go's own retries, as the server
// does.
type observer struct {
	lock sync.Mutex
	// lists and watches count what was asked for; streamed are those of the
	// watches that asked for the initial state, too.
	lists, watches, streamed int
	// resumed are the watches that go on from a version seen before.
	resumed int
	// refused counts the answers with 429, early those asked again before the
	// time they said.
	refused, early int
	contentTypes   map[string]bool
	// due says when what was refused may be asked again.
	due map[string][]time.Time
	// cutAfter is how many bytes the next watches live for, each its own; see cutWatches.
	cutAfter []int
}

func newObserver() *observer {
	return &observer{contentTypes: make(map[string]bool), due: make(map[string][]time.Time)}
}

func (o *observer) wrap(next http.RoundTripper) http.RoundTripper {
	return roundTripper(func(request *http.Request) (*http.Response, error) {
		o.sent(request)
		answer, err := next.RoundTrip(request)
		if err == nil {
			o.answered(request, answer)
		}
		return answer, err
	})
}

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(request *http.Request) (*http.Response, error) { return f(request) }

func isWatch(request *http.Request) bool {
	watch, _ := strconv.ParseBool(request.URL.Query().Get("watch"))
	return watch
}

// isList holds for what this program asks for: it names no object but those it
// reads alone by a path without a query.
func isList(request *http.Request) bool {
	query := request.URL.Query()
	return request.Method == http.MethodGet && !isWatch(request) && (query.Has("limit") || query.Has("resourceVersion"))
}

func (o *observer) sent(request *http.Request) {
	o.lock.Lock()
	defer o.lock.Unlock()
	query := request.URL.Query()
	switch {
	case isWatch(request):
		o.watches++
		if query.Get("sendInitialEvents") == "true" {
			o.streamed++
		} else if version := query.Get("resourceVersion"); version != "" && version != "0" {
			o.resumed++
		}
	case isList(request):
		o.lists++
	}
	key := request.Method + request.URL.String()
	if due := o.due[key]; len(due) > 0 {
		// A millisecond for a timer that is early.
		if time.Now().Add(time.Millisecond).Before(due[0]) {
			o.early++
		}
		o.due[key] = due[1:]
	}
}

func (o *observer) answered(request *http.Request, answer *http.Response) {
	o.lock.Lock()
	defer o.lock.Unlock()
	if answer.StatusCode == http.StatusTooManyRequests {
		o.refused++
		if seconds, err := strconv.Atoi(answer.Header.Get("Retry-After")); err == nil {
			key := request.Method + request.URL.String()
			due := append(o.due[key], time.Now().Add(time.Duration(seconds)*time.Second))
			slices.SortFunc(due, time.Time.Compare)
			o.due[key] = due
		}
		return
	}
	if kind, parameters, err := mime.ParseMediaType(answer.Header.Get("Content-Type")); err == nil {
		if stream := parameters["stream"]; stream != "" {
			kind += ";stream=" + stream
		}
		o.contentTypes[kind] = true
	}
	if isWatch(request) && len(o.cutAfter) > 0 {
		answer.Body = &cutBody{answer.Body, o.cutAfter[0]}
		o.cutAfter = o.cutAfter[1:]
	}
}

// cutWatches makes the next watches break off after so many bytes, each its own.
func (o *observer) cutWatches(after ...int) {
	o.lock.Lock()
	defer o.lock.Unlock()
	o.cutAfter = after
}

// seenTypes are the media types of the answers.
func (o *observer) seenTypes() []string {
	o.lock.Lock()
	defer o.lock.Unlock()
	return slices.Sorted(maps.Keys(o.contentTypes))
}

// counts are the numbers of a moment.
type counts struct{ lists, watches, streamed, resumed, refused, early, cutsLeft int }

func (o *observer) counts() counts {
	o.lock.Lock()
	defer o.lock.Unlock()
	return counts{o.lists, o.watches, o.streamed, o.resumed, o.refused, o.early, len(o.cutAfter)}
}

// cutBody is an answer whose connection breaks.
type cutBody struct {
	io.ReadCloser
	left int
}

func (b *cutBody) Read(buffer []byte) (int, error) {
	if b.left <= 0 {
		return 0, io.ErrUnexpectedEOF
	}
	if len(buffer) > b.left {
		buffer = buffer[:b.left]
	}
	n, err := b.ReadCloser.Read(buffer)
	b.left -= n
	return n, err
}
