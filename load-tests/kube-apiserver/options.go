package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// options is the command line.
type options struct {
	dir              string
	bind             string
	port             int
	extraSANs        []string
	algorithm        keyAlgorithm
	exitOnStdinClose bool
	// fakeKubelet is the name of a Node to be; empty for none.
	fakeKubelet string
	// aggregatedAPI is whether there is an aggregated API, and with it an
	// egress through which the apiserver reaches pods, services and nodes.
	aggregatedAPI bool
	// serverFlags are handed to kube-apiserver after our own, so they win.
	serverFlags []string
}

// path is a file or directory below the control plane's own directory.
func (o options) path(elements ...string) string {
	return filepath.Join(append([]string{o.dir}, elements...)...)
}

// nodeAddress is where the apiserver reaches the fake kubelet.
func (o options) nodeAddress() string {
	if o.aggregatedAPI {
		return inclusterAddress
	}
	return "127.0.0.1"
}

// parseOptions reads the command line; it has reported what is wrong on usage
// when it returns an error.
func parseOptions(args []string, usage io.Writer) (options, error) {
	var o options
	set := flag.NewFlagSet("control-plane", flag.ContinueOnError)
	set.SetOutput(usage)
	set.StringVar(&o.dir, "dir", "", "`directory` of certificates, kubeconfigs, data and log; created, or reused with all that is in it")
	set.StringVar(&o.bind, "bind", "127.0.0.1", "loopback `address` to serve on")
	set.IntVar(&o.port, "port", 0, "`port` to serve on; 0 takes the one used before in this directory, or a free one")
	set.BoolVar(&o.exitOnStdinClose, "exit-on-stdin-close", false, "stop when standard input ends, so that a caller that dies leaves nothing behind")
	set.StringVar(&o.fakeKubelet, "fake-kubelet", "", "`name` of a Node to register, with a kubelet that has no containers but serves exec, attach, port-forward and logs")
	set.BoolVar(&o.aggregatedAPI, "aggregated-api", false, "serve an aggregated API and a Pod and Service to proxy to, through an egress of the apiserver's own; for a new directory only")
	set.Func("extra-san", "DNS `name or address` to add to the serving certificate (repeatable); kubeadm's names do not include 127.0.0.1", func(name string) error {
		if name == "" {
			return errors.New("empty name")
		}
		o.extraSANs = append(o.extraSANs, name)
		return nil
	})
	set.Func("encryption-algorithm", "`algorithm` of new keys, RSA-2048 (kubeadm's default) or ECDSA-P256", func(name string) (err error) {
		o.algorithm, err = parseKeyAlgorithm(name)
		return err
	})
	if err := set.Parse(args); err != nil {
		return o, err
	}
	o.serverFlags = set.Args()
	if err := o.complete(); err != nil {
		fmt.Fprintf(usage, "control-plane: %v\n", err)
		return o, err
	}
	return o, nil
}

func (o *options) complete() error {
	if o.dir == "" {
		return errors.New("--dir is required")
	}
	absolute, err := filepath.Abs(o.dir)
	if err != nil {
		return fmt.Errorf("--dir %s: %w", o.dir, err)
	}
	o.dir = absolute
	if err := os.MkdirAll(o.dir, 0o700); err != nil {
		return fmt.Errorf("--dir: %w", err)
	}
	if address := net.ParseIP(o.bind); address == nil || !address.IsLoopback() {
		return fmt.Errorf("--bind %s: not a loopback address; this control plane is for tests and never leaves the host", o.bind)
	}
	if o.port < 0 || o.port > 65535 {
		return fmt.Errorf("--port %d: not a port", o.port)
	}
	return nil
}

// The range free ports are picked from lies below the ephemeral ports of Linux,
// so that no outgoing connection takes the port between two runs.
const (
	firstFreePort = 20000
	lastFreePort  = 32000
)

// ensurePort settles the port and remembers it in the directory, so that a
// restart comes back on the same address.
func ensurePort(opts options) (int, error) {
	file := opts.path("port")
	port := opts.port
	if port == 0 {
		if text, err := os.ReadFile(file); err == nil {
			port, err = strconv.Atoi(strings.TrimSpace(string(text)))
			if err != nil {
				return 0, fmt.Errorf("%s: %w; remove the file to pick a new port", file, err)
			}
		}
	}
	if port == 0 {
		var err error
		if port, err = freePort(opts.bind); err != nil {
			return 0, err
		}
	} else if err := tryPort(opts.bind, port); err != nil {
		return 0, fmt.Errorf("port %d is not free: %w", port, err)
	}
	if err := os.WriteFile(file, []byte(strconv.Itoa(port)+"\n"), 0o600); err != nil {
		return 0, err
	}
	return port, nil
}

func freePort(bind string) (int, error) {
	var err error
	for range 64 {
		port := firstFreePort + rand.IntN(lastFreePort-firstFreePort)
		if err = tryPort(bind, port); err == nil {
			return port, nil
		}
	}
	return 0, fmt.Errorf("no free port found on %s: %w", bind, err)
}

func tryPort(bind string, port int) error {
	listener, err := net.Listen("tcp", net.JoinHostPort(bind, strconv.Itoa(port)))
	if err != nil {
		return err
	}
	return listener.Close()
}
