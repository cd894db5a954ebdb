package main

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/cri-streaming/pkg/streaming/portforward"
	"k8s.io/cri-streaming/pkg/streaming/remotecommand"
)

// kubeletClientName is the only client a kubelet of this control plane serves.
const kubeletClientName = "kube-apiserver-kubelet-client"

// The kubelet's own default for a session on which nothing is said.
const streamIdleTimeout = 4 * time.Hour

// logInterval is how far apart the lines of a followed log are.
const logInterval = 20 * time.Millisecond

// logBacklog is how many lines a log has before it is followed.
const logBacklog = 5

// fakeKubelet serves what the apiserver asks of a kubelet for exec, attach,
// port-forward and logs, by the kubelet's own streaming code but without
// containers: of whatever pod is asked for, it runs the commands of
// kubelet_commands.go. It must never be reachable from outside the host.
type fakeKubelet struct {
	// root is the directory that stands for every container's filesystem.
	root string
	// echo is the address of what listens on echoPort of every pod.
	echo     string
	sessions sessionCounts
}

// sessionKind is what a session is for.
type sessionKind string

const (
	execSession        sessionKind = "exec"
	attachSession      sessionKind = "attach"
	portForwardSession sessionKind = "portforward"
	logSession         sessionKind = "logs"
)

// sessionCounts are the sessions under way, by pod.
type sessionCounts struct {
	lock  sync.Mutex
	count map[session]int
}

type session struct {
	pod  string
	kind sessionKind
}

// open counts a session until the function it returns is called.
func (c *sessionCounts) open(pod string, kind sessionKind) (end func()) {
	key := session{pod, kind}
	c.add(key, 1)
	return func() { c.add(key, -1) }
}

func (c *sessionCounts) add(key session, change int) {
	c.lock.Lock()
	defer c.lock.Unlock()
	if c.count == nil {
		c.count = make(map[session]int)
	}
	c.count[key] += change
	if c.count[key] == 0 {
		delete(c.count, key)
	}
}

func (c *sessionCounts) of(pod string, kind sessionKind) int {
	c.lock.Lock()
	defer c.lock.Unlock()
	return c.count[session{pod, kind}]
}

// startFakeKubelet serves on a free port and registers itself as a Node.
func startFakeKubelet(ctx context.Context, client kubernetes.Interface, opts options) error {
	k := &fakeKubelet{root: opts.path("kubelet")}
	if err := os.MkdirAll(filepath.Join(k.root, "tmp"), 0o700); err != nil {
		return err
	}
	var err error
	if k.echo, err = startEcho(); err != nil {
		return err
	}
	config, err := kubeletTLS(opts)
	if err != nil {
		return err
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	server := &http.Server{Handler: k.handler(), TLSConfig: config, ReadHeaderTimeout: time.Minute}
	go func() { _ = server.ServeTLS(listener, "", "") }() // until the process ends
	return registerNode(ctx, client, opts, listener.Addr().(*net.TCPAddr).Port)
}

// kubeletTLS accepts nobody but the apiserver, and shows a certificate that the
// apiserver verifies.
func kubeletTLS(opts options) (*tls.Config, error) {
	authority, err := readPair(opts.path("pki", "ca"))
	if err != nil {
		return nil, err
	}
	serving, err := authority.issue(opts.algorithm, subject{
		commonName:    "system:node:" + opts.fakeKubelet,
		organizations: []string{"system:nodes"},
		usage:         x509.ExtKeyUsageServerAuth,
		names:         []string{opts.nodeAddress()},
	})
	if err != nil {
		return nil, err
	}
	clients := x509.NewCertPool()
	clients.AddCert(authority.certificate)
	return &tls.Config{
		MinVersion:   tls.VersionTLS12,
		Certificates: []tls.Certificate{{Certificate: [][]byte{serving.certificate.Raw}, PrivateKey: serving.key}},
		ClientAuth:   tls.RequireAndVerifyClientCert,
		ClientCAs:    clients,
		VerifyConnection: func(state tls.ConnectionState) error {
			if name := state.PeerCertificates[0].Subject.CommonName; name != kubeletClientName {
				return fmt.Errorf("%q is not %q", name, kubeletClientName)
			}
			return nil
		},
	}, nil
}

// registerNode makes the Node, or tells the one that is there of the new port.
func registerNode(ctx context.Context, client kubernetes.Interface, opts options, port int) error {
	name := opts.fakeKubelet
	node := &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Status: corev1.NodeStatus{
			Addresses:       []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: opts.nodeAddress()}},
			DaemonEndpoints: corev1.NodeDaemonEndpoints{KubeletEndpoint: corev1.DaemonEndpoint{Port: int32(port)}},
			Conditions:      []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue}},
		},
	}
	nodes := client.CoreV1().Nodes()
	_, err := nodes.Create(ctx, node, metav1.CreateOptions{})
	if apierrors.IsAlreadyExists(err) {
		_, err = nodes.UpdateStatus(ctx, node, metav1.UpdateOptions{})
	}
	if err != nil {
		return fmt.Errorf("registering the Node %s: %w", name, err)
	}
	return nil
}

func (k *fakeKubelet) handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("/exec/{namespace}/{pod}/{container}", k.serveExec)
	mux.HandleFunc("/attach/{namespace}/{pod}/{container}", k.serveAttach)
	mux.HandleFunc("/portForward/{namespace}/{pod}", k.servePortForward)
	mux.HandleFunc("/containerLogs/{namespace}/{pod}/{container}", k.serveLogs)
	handleMirror(mux, "/mirror")
	return mux
}

// lingering lets the client of a session close first. The streaming code closes
// the connection the moment a command has ended, and on a busy machine the end
// of its output, or all of it, is then now and then lost on the way to a client
// that speaks SPDY. That is so without any proxy between, and would make tests
// of one fail for what is not its fault.
type lingering struct{ http.ResponseWriter }

// Hijack is what the streaming code takes the connection over with.
func (l lingering) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	connection, buffered, err := http.NewResponseController(l.ResponseWriter).Hijack()
	return lingeringConnection{connection}, buffered, err
}

// lingerTime bounds the wait for the client, which has been told how the
// command ended and has nothing left to do but to close.
const lingerTime = 10 * time.Second

type lingeringConnection struct{ net.Conn }

func (c lingeringConnection) Close() error {
	if c.SetReadDeadline(time.Now().Add(lingerTime)) == nil {
		_, _ = io.Copy(io.Discard, c.Conn)
	}
	return c.Conn.Close()
}

// podOf names the pod a request is about.
func podOf(r *http.Request) string { return r.PathValue("namespace") + "/" + r.PathValue("pod") }

func (k *fakeKubelet) serveExec(w http.ResponseWriter, r *http.Request) {
	defer k.sessions.open(podOf(r), execSession)()
	streams, err := remotecommand.NewOptions(r)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	remotecommand.ServeExec(lingering{w}, r, k, podOf(r), "", r.PathValue("container"), r.Form["command"], streams,
		streamIdleTimeout, remotecommand.DefaultStreamCreationTimeout, remotecommand.SupportedStreamingProtocols)
}

func (k *fakeKubelet) serveAttach(w http.ResponseWriter, r *http.Request) {
	defer k.sessions.open(podOf(r), attachSession)()
	streams, err := remotecommand.NewOptions(r)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	remotecommand.ServeAttach(lingering{w}, r, k, podOf(r), "", r.PathValue("container"), streams,
		streamIdleTimeout, remotecommand.DefaultStreamCreationTimeout, remotecommand.SupportedStreamingProtocols)
}

func (k *fakeKubelet) servePortForward(w http.ResponseWriter, r *http.Request) {
	defer k.sessions.open(podOf(r), portForwardSession)()
	ports, err := portforward.NewV4Options(r)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	portforward.ServePortForward(lingering{w}, r, k, podOf(r), "", ports,
		streamIdleTimeout, remotecommand.DefaultStreamCreationTimeout, portforward.SupportedProtocols)
}

// serveLogs sends the numbered lines of a log, and with follow=true more of
// them until the client leaves.
func (k *fakeKubelet) serveLogs(w http.ResponseWriter, r *http.Request) {
	defer k.sessions.open(podOf(r), logSession)()
	first := 1
	if tail, err := strconv.Atoi(r.FormValue("tailLines")); err == nil {
		first = max(first, logBacklog-tail+1)
	}
	for line := first; ; line++ {
		if line > logBacklog {
			if r.FormValue("follow") != "true" {
				return
			}
			select {
			case <-r.Context().Done():
				return
			case <-time.After(logInterval):
			}
		}
		if _, err := fmt.Fprintf(w, "line %d\n", line); err != nil {
			return
		}
		if err := http.NewResponseController(w).Flush(); err != nil {
			return
		}
	}
}
