package main

import (
	"net/http"
	"net/url"
	"strconv"
	"sync"
)

// calls counts requests by what they ask of the server, and how they were
// answered.
type calls struct {
	mutex  sync.Mutex
	counts map[string]int
}

func newCalls() *calls {
	return &calls{counts: map[string]int{}}
}

// kind tells the requests of an informer apart by their cost.
func kind(query url.Values) string {
	switch {
	case query.Get("watch") == "":
		return "list"
	case query.Get("sendInitialEvents") == "true":
		// The whole state, as a list by another name.
		return "watch-list"
	default:
		return "watch"
	}
}

func (c *calls) add(name string) {
	c.mutex.Lock()
	defer c.mutex.Unlock()
	c.counts[name]++
}

// snapshot is what was counted so far.
func (c *calls) snapshot() map[string]int {
	c.mutex.Lock()
	defer c.mutex.Unlock()
	counts := make(map[string]int, len(c.counts))
	for name, count := range c.counts {
		counts[name] = count
	}
	return counts
}

func (c *calls) wrap(next http.RoundTripper) http.RoundTripper {
	return roundTripper{calls: c, next: next}
}

type roundTripper struct {
	calls *calls
	next  http.RoundTripper
}

// RoundTrip counts a request when its answer's head is there: `list`,
// `list 200`, or `list error`.
func (r roundTripper) RoundTrip(request *http.Request) (*http.Response, error) {
	kind := kind(request.URL.Query())
	response, err := r.next.RoundTrip(request)
	if err != nil {
		r.calls.add(kind + " error")
		return response, err
	}
	r.calls.add(kind + " " + strconv.Itoa(response.StatusCode))
	return response, nil
}
