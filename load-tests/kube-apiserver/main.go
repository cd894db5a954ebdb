// Command control-plane runs a real Kubernetes control plane for tests: the
// kube-apiserver of the module versions pinned in go.mod, linked in unchanged,
// and the etcd it stores into, in one process and on the loopback interface
// only.
//
// In --dir it lays out what kubeadm lays out on a control-plane node (pki/ and
// the kubeconfigs), and it gives the server the flags kubeadm gives it, so that
// what is tested against it holds on a kubeadm cluster. The deviations are in
// serverFlags (apiserver.go), each with its reason.
//
// Build (the linker flags make the server report its release, as the project's
// own build does; without them it works, but calls itself v0.0.0-master):
//
//	go build -o bin/control-plane \
//	  -ldflags "-X k8s.io/component-base/version.gitVersion=v1.37.1 ..." .
//
// When the server is ready one JSON line appears on standard output and nothing
// else ever does; logs go to DIR/control-plane.log. SIGTERM, SIGINT and (with
// --exit-on-stdin-close) the end of standard input stop it.
//
// As `control-plane requestinfo` it runs no control plane, but says what one
// takes requests to be (requestinfo.go).
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"
	"time"

	genericapiserver "k8s.io/apiserver/pkg/server"
)

// readyTimeout bounds the wait for /readyz, in which the server creates its
// bootstrap objects in an empty etcd.
const readyTimeout = 2 * time.Minute

// stopTimeout bounds a stop. The apiserver waits for requests under way, and is
// known to hang when its storage misbehaves; the caller wants it gone.
const stopTimeout = 8 * time.Second

// The exit codes besides 0, a stop that was asked for and done in order.
const (
	exitFailed   = 1
	exitTooSlow  = 3
	exitBadUsage = 2
)

func main() {
	if len(os.Args) == 2 && os.Args[1] == requestInfoMode {
		if err := answerRequestInfo(os.Stdin, os.Stdout); err != nil {
			fmt.Fprintf(os.Stderr, "control-plane: %v\n", err)
			os.Exit(exitFailed)
		}
		return
	}
	opts, err := parseOptions(os.Args[1:], os.Stderr)
	if err != nil {
		os.Exit(exitBadUsage)
	}
	streams, err := divertOutput(opts.path("control-plane.log"))
	if err != nil {
		fmt.Fprintf(os.Stderr, "control-plane: %v\n", err)
		os.Exit(exitFailed)
	}
	if err := run(opts, streams.answers); err != nil {
		streams.fatal(err)
		os.Exit(exitFailed)
	}
}

// run returns when the control plane has stopped: nil when that was asked for.
func run(opts options, answers io.Writer) error {
	if err := ensurePKI(opts); err != nil {
		return fmt.Errorf("laying out the certificates in %s: %w", opts.dir, err)
	}
	port, err := ensurePort(opts)
	if err != nil {
		return err
	}
	server := fmt.Sprintf("https://%s:%d", opts.bind, port)
	if err := ensureKubeconfigs(opts, server); err != nil {
		return fmt.Errorf("writing the kubeconfigs: %w", err)
	}

	if opts.aggregatedAPI {
		flag, err := startEgress(opts)
		if err != nil {
			return fmt.Errorf("starting the egress: %w", err)
		}
		opts.serverFlags = append([]string{flag}, opts.serverFlags...)
	}

	// From here on the apiserver's own signal handler is in charge.
	apiserver := newAPIServer(opts, port)
	watchForStop(opts.exitOnStdinClose)

	store, err := startEtcd(opts)
	if err != nil {
		return fmt.Errorf("starting etcd: %w", err)
	}

	stopped := make(chan error, 1)
	go func() { stopped <- apiserver.run() }()

	ready := make(chan error, 1)
	ctx, cancel := context.WithTimeout(context.Background(), readyTimeout)
	defer cancel()
	go func() { ready <- bootstrap(ctx, opts) }()

	for {
		select {
		case err := <-ready:
			if err == nil {
				err = announce(ctx, opts, server, answers)
			}
			if err != nil {
				return fmt.Errorf("the kube-apiserver did not become ready (see its log in %s): %w", opts.dir, err)
			}
		case err := <-stopped:
			// The apiserver first, then its storage: the other way round the
			// apiserver can hang.
			cancel()
			store.Close()
			return err
		case err := <-store.Err():
			return fmt.Errorf("etcd failed: %w", err)
		}
	}
}

// announce prints the one line a caller waits for.
func announce(ctx context.Context, opts options, server string, answers io.Writer) error {
	version, err := serverVersion(ctx, opts)
	if err != nil {
		return fmt.Errorf("asking for the version: %w", err)
	}
	return json.NewEncoder(answers).Encode(struct {
		Event   string `json:"event"`
		Server  string `json:"server"`
		Dir     string `json:"dir"`
		Version string `json:"version"`
	}{"ready", server, opts.dir, version})
}

// watchForStop starts the clock of a stop when one is asked for, and turns the
// end of standard input into the same request as a SIGTERM.
func watchForStop(stdinToo bool) {
	asked := make(chan os.Signal, 1)
	signal.Notify(asked, syscall.SIGTERM, syscall.SIGINT)
	go func() {
		<-asked
		time.AfterFunc(stopTimeout, func() { os.Exit(exitTooSlow) })
	}()
	if !stdinToo {
		return
	}
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		select {
		case asked <- syscall.SIGTERM:
		default: // already stopping
		}
		genericapiserver.RequestShutdown()
	}()
}
