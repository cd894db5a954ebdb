package main

import (
	"strconv"

	"github.com/spf13/cobra"
	"k8s.io/component-base/cli"
	"k8s.io/kubernetes/cmd/kube-apiserver/app"

	// What the project's own main package links in besides: the JSON log
	// format and the metrics of its clients and version.
	_ "k8s.io/component-base/logs/json/register"
	_ "k8s.io/component-base/metrics/prometheus/clientgo"
	_ "k8s.io/component-base/metrics/prometheus/version"
)

// frontProxyName is the one common name whose holder may assert identities.
const frontProxyName = "front-proxy-client"

// apiserver is the kube-apiserver's own command, to be run once.
type apiserver struct{ command *cobra.Command }

// newAPIServer also installs the apiserver's handler of SIGTERM and SIGINT.
func newAPIServer(opts options, port int) apiserver {
	command := app.NewAPIServerCommand()
	command.SetArgs(append(serverFlags(opts, port), opts.serverFlags...))
	return apiserver{command}
}

// run returns when the server has stopped.
func (a apiserver) run() error { return cli.RunNoErrOutput(a.command) }

// serverFlags are those kubeadm writes into the static pod's manifest, in its
// order, and then the few a loopback-only server needs besides.
func serverFlags(opts options, port int) []string {
	pki := func(name string) string { return opts.path("pki", name) }
	flags := []string{
		"--advertise-address=" + advertiseAddress,
		"--allow-privileged=true",
		"--authorization-mode=Node,RBAC",
		"--client-ca-file=" + pki("ca.crt"),
		"--enable-admission-plugins=NodeRestriction",
		"--enable-bootstrap-token-auth=true",
		"--kubelet-client-certificate=" + pki("apiserver-kubelet-client.crt"),
		"--kubelet-client-key=" + pki("apiserver-kubelet-client.key"),
		"--kubelet-preferred-address-types=InternalIP,ExternalIP,Hostname",
		"--proxy-client-cert-file=" + pki("front-proxy-client.crt"),
		"--proxy-client-key-file=" + pki("front-proxy-client.key"),
		"--requestheader-allowed-names=" + frontProxyName,
		"--requestheader-client-ca-file=" + pki("front-proxy-ca.crt"),
		"--requestheader-extra-headers-prefix=X-Remote-Extra-",
		"--requestheader-group-headers=X-Remote-Group",
		"--requestheader-username-headers=X-Remote-User",
		"--secure-port=" + strconv.Itoa(port),
		"--service-account-issuer=https://kubernetes.default.svc.cluster.local",
		"--service-account-key-file=" + pki("sa.pub"),
		"--service-account-signing-key-file=" + pki("sa.key"),
		"--service-cluster-ip-range=" + serviceSubnet,
		"--tls-cert-file=" + pki("apiserver.crt"),
		"--tls-private-key-file=" + pki("apiserver.key"),
		// kubeadm's etcd is reached over TLS on 127.0.0.1:2379; ours is in
		// this process.
		"--etcd-servers=unix://" + etcdSocket(opts),
		// kubeadm serves on every address; with the proxy in front, and in
		// tests, only loopback.
		"--bind-address=" + opts.bind,
	}
	if opts.fakeKubelet != "" {
		// kubeadm's kubelets sign their serving certificates themselves, and so
		// it does not set this; ours has one of the cluster's authority.
		flags = append(flags, "--kubelet-certificate-authority="+pki("ca.crt"))
	}
	return flags
}
