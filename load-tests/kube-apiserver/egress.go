package main

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
)

// inclusterAddress is what nodes, pods and endpoints say their address is when
// there is an egress. The apiserver proxies to no loopback address; this one
// (RFC 5737, for documentation) belongs to nobody, and the egress takes every
// address for this host.
const inclusterAddress = "198.51.100.1"

// egressConfiguration is what the apiserver reads: everything it asks of the
// cluster (kubelets, pods, services, aggregated APIs) goes through the egress,
// as with konnectivity.
const egressConfiguration = `apiVersion: apiserver.k8s.io/v1beta1
kind: EgressSelectorConfiguration
egressSelections:
- name: cluster
  connection:
    proxyProtocol: HTTPConnect
    transport:
      uds:
        udsName: %s
`

// startEgress writes the configuration and serves CONNECT on a unix socket: to
// the port that is asked for, on the loopback interface and nowhere else.
func startEgress(opts options) (flag string, err error) {
	socket, file := opts.path("egress"), opts.path("egress.yaml")
	if err := os.WriteFile(file, fmt.Appendf(nil, egressConfiguration, socket), 0o600); err != nil {
		return "", err
	}
	if err := os.Remove(socket); err != nil && !os.IsNotExist(err) {
		return "", err
	}
	listener, err := net.Listen("unix", socket)
	if err != nil {
		return "", err
	}
	go func() {
		for {
			connection, err := listener.Accept()
			if err != nil {
				return
			}
			go func() { _ = connectLoopback(connection) }()
		}
	}()
	return "--egress-selector-config-file=" + file, nil
}

// connectLoopback serves one CONNECT.
func connectLoopback(client net.Conn) error {
	defer client.Close()
	buffered := bufio.NewReader(client)
	request, err := http.ReadRequest(buffered)
	if err != nil {
		return err
	}
	_, port, err := net.SplitHostPort(request.Host)
	if request.Method != http.MethodConnect || err != nil {
		_, err := io.WriteString(client, "HTTP/1.1 400 Bad Request\r\n\r\n")
		return err
	}
	server, err := net.Dial("tcp", net.JoinHostPort("127.0.0.1", port))
	if err != nil {
		_, err := io.WriteString(client, "HTTP/1.1 502 Bad Gateway\r\n\r\n")
		return err
	}
	defer server.Close()
	if _, err := io.WriteString(client, "HTTP/1.1 200 Connection established\r\n\r\n"); err != nil {
		return err
	}
	done := make(chan struct{}, 2)
	pipe := func(to, from net.Conn, data io.Reader) {
		_, _ = io.Copy(to, data)
		// Half of it is over; the other half may not be.
		if half, ok := to.(interface{ CloseWrite() error }); ok {
			_ = half.CloseWrite()
		}
		done <- struct{}{}
	}
	go pipe(server, client, buffered)
	go pipe(client, server, server)
	<-done
	<-done
	return nil
}
