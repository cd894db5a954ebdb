package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strings"

	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apiserver/pkg/endpoints/request"
	genericfilters "k8s.io/apiserver/pkg/server/filters"
)

// requestInfoMode is the first argument that makes this program say, instead of
// running a control plane, what a kube-apiserver takes requests to be: for each
// line `METHOD TARGET` on standard input one JSON object on standard output.
const requestInfoMode = "requestinfo"

// The factory and the predicate as kube-apiserver sets them up
// (genericapiserver.NewRequestInfoResolver and pkg/controlplane/apiserver's
// BuildGenericConfig).
var (
	factory = request.RequestInfoFactory{
		APIPrefixes:          sets.NewString("api", "apis"),
		GrouplessAPIPrefixes: sets.NewString("api"),
	}
	isLongRunning = genericfilters.BasicLongRunningRequestCheck(
		sets.NewString("watch", "proxy"),
		sets.NewString("attach", "exec", "proxy", "log", "portforward"),
	)
)

// reading is what the server takes a request to be, or how it refuses it.
type reading struct {
	IsResourceRequest bool   `json:"isResourceRequest"`
	Verb              string `json:"verb"`
	APIPrefix         string `json:"apiPrefix,omitempty"`
	APIGroup          string `json:"apiGroup"`
	APIVersion        string `json:"apiVersion"`
	Namespace         string `json:"namespace"`
	Resource          string `json:"resource"`
	Subresource       string `json:"subresource"`
	Name              string `json:"name"`
	FieldSelector     string `json:"fieldSelector"`
	LabelSelector     string `json:"labelSelector"`
	LongRunning       bool   `json:"longRunning"`
}

type refusal struct {
	Error  string `json:"error"`
	Status int    `json:"status"`
}

// answerRequestInfo reads lines until their end.
func answerRequestInfo(lines io.Reader, answers io.Writer) error {
	// The factory logs every query it cannot decode; here they are the point.
	silence, err := os.OpenFile(os.DevNull, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	defer func(kept *os.File) { os.Stderr = kept }(os.Stderr)
	os.Stderr = silence

	in, out := bufio.NewReader(lines), bufio.NewWriter(answers)
	encoder := json.NewEncoder(out)
	for {
		line, err := in.ReadString('\n')
		if err != nil && (!errors.Is(err, io.EOF) || line == "") {
			return errors.Join(out.Flush(), ignoreEOF(err))
		}
		// Of the line only its own end is taken off: a \r is the target's.
		method, target, _ := strings.Cut(strings.TrimSuffix(line, "\n"), " ")
		if err := encoder.Encode(readingOf(method, target)); err != nil {
			return err
		}
		if in.Buffered() == 0 {
			// Whoever waits for an answer before asking on gets it.
			if err := out.Flush(); err != nil {
				return err
			}
		}
	}
}

func ignoreEOF(err error) error {
	if errors.Is(err, io.EOF) {
		return nil
	}
	return err
}

// readingOf is a reading or a refusal.
func readingOf(method, target string) any {
	req, err := received(method, target)
	if err != nil {
		return refusal{err.Error(), http.StatusBadRequest}
	}
	info, err := factory.NewRequestInfo(req)
	if err != nil {
		// What the filter WithRequestInfo makes of it.
		return refusal{err.Error(), http.StatusInternalServerError}
	}
	answer := reading{
		IsResourceRequest: info.IsResourceRequest,
		Verb:              info.Verb,
		APIGroup:          info.APIGroup,
		APIVersion:        info.APIVersion,
		Namespace:         info.Namespace,
		Resource:          info.Resource,
		Subresource:       info.Subresource,
		Name:              info.Name,
		FieldSelector:     info.FieldSelector,
		LabelSelector:     info.LabelSelector,
		LongRunning:       isLongRunning(req, info),
	}
	if info.IsResourceRequest {
		answer.APIPrefix = info.APIPrefix
	}
	return answer
}

// received is the request as a server gets it that is sent this request line.
// HTTP/1.1 is the stricter of the two protocols: it cannot carry a space. What
// it refuses is read as HTTP/2 reads `:method` and `:path`, because a proxy may
// speak either to the server. Where both accept, both must see the same URL.
func received(method, target string) (*http.Request, error) {
	line := method + " " + target + " HTTP/1.1\r\nHost: kubernetes\r\n\r\n"
	first, firstErr := http.ReadRequest(bufio.NewReader(strings.NewReader(line)))
	if !isToken(method) || (method == http.MethodConnect && !strings.HasPrefix(target, "/")) {
		// Every client refuses the one; the other names a host.
		return first, firstErr
	}
	second, secondErr := url.ParseRequestURI(target)
	switch {
	case firstErr == nil && secondErr == nil:
		if first.URL.Path != second.Path || first.URL.RawQuery != second.RawQuery {
			return nil, fmt.Errorf("HTTP/1.1 reads %v and HTTP/2 reads %v", first.URL, second)
		}
		return first, nil
	case firstErr == nil:
		return nil, fmt.Errorf("HTTP/1.1 accepts what HTTP/2 refuses: %w", secondErr)
	case secondErr == nil:
		return &http.Request{Method: method, URL: second}, nil
	}
	return nil, firstErr
}

// isToken says whether HTTP allows the method.
func isToken(method string) bool {
	_, err := http.NewRequest(method, "/", nil)
	return err == nil && method != ""
}
