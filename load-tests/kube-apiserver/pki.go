package main

import (
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"

	"golang.org/x/sync/errgroup"
	"k8s.io/client-go/util/keyutil"
)

// advertiseAddress is what the server publishes as its endpoint. It must not be
// a loopback address; this one (RFC 5737, for documentation) belongs to nobody,
// so nothing of the host's network shows or is reached through it.
const advertiseAddress = "192.0.2.1"

// The first address of kubeadm's default service subnet is the kubernetes
// Service itself.
const (
	serviceSubnet       = "10.96.0.0/12"
	firstServiceAddress = "10.96.0.1"
)

// ensurePKI lays out pki/ as kubeadm does, keeping what is there: a restart, or
// a caller that wrote its own files, keeps its trust.
func ensurePKI(opts options) error {
	if err := os.MkdirAll(opts.path("pki"), 0o700); err != nil {
		return err
	}
	var group errgroup.Group // generating RSA keys is most of the work
	group.Go(func() error { return ensureClusterCertificates(opts) })
	group.Go(func() error { return ensureFrontProxyCertificates(opts) })
	group.Go(func() error { return ensureServiceAccountKey(opts) })
	return group.Wait()
}

func ensureClusterCertificates(opts options) error {
	authority, err := ensureAuthority(opts, "ca", "kubernetes")
	if err != nil {
		return err
	}
	names, err := servingNames(opts)
	if err != nil {
		return err
	}
	err = ensureCertificate(opts, authority, "apiserver", subject{
		commonName: "kube-apiserver",
		usage:      x509.ExtKeyUsageServerAuth,
		names:      names,
	})
	if err != nil {
		return err
	}
	return ensureCertificate(opts, authority, "apiserver-kubelet-client", subject{
		commonName:    kubeletClientName,
		organizations: []string{adminGroup},
		usage:         x509.ExtKeyUsageClientAuth,
	})
}

func ensureFrontProxyCertificates(opts options) error {
	authority, err := ensureAuthority(opts, "front-proxy-ca", "front-proxy-ca")
	if err != nil {
		return err
	}
	return ensureCertificate(opts, authority, "front-proxy-client", subject{
		commonName: frontProxyName,
		usage:      x509.ExtKeyUsageClientAuth,
	})
}

func ensureAuthority(opts options, name, commonName string) (pair, error) {
	return reuse(opts.path("pki", name), nil, nil, func() (pair, error) {
		return newAuthority(opts.algorithm, commonName)
	})
}

func ensureCertificate(opts options, authority pair, name string, s subject) error {
	_, err := reuse(opts.path("pki", name), &authority, s.names, func() (pair, error) {
		return authority.issue(opts.algorithm, s)
	})
	return err
}

// servingNames are kubeadm's, which do not include the loopback address the
// server listens on: a client dials 127.0.0.1 and verifies "kubernetes".
func servingNames(opts options) ([]string, error) {
	host, err := os.Hostname()
	if err != nil {
		return nil, err
	}
	names := []string{
		"kubernetes",
		"kubernetes.default",
		"kubernetes.default.svc",
		"kubernetes.default.svc.cluster.local",
		strings.ToLower(host),
		firstServiceAddress,
		advertiseAddress,
	}
	return append(names, opts.extraSANs...), nil
}

// ensureServiceAccountKey makes the key pair that signs and verifies
// service-account tokens; it has no certificate.
func ensureServiceAccountKey(opts options) error {
	private, public := opts.path("pki", "sa.key"), opts.path("pki", "sa.pub")
	if _, err := os.Stat(private); err == nil {
		if _, err := os.Stat(public); err != nil {
			return fmt.Errorf("%s is there without its public half: %w", private, err)
		}
		return nil
	} else if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	key, err := opts.algorithm.generate()
	if err != nil {
		return err
	}
	privatePEM, err := keyutil.MarshalPrivateKeyToPEM(key)
	if err != nil {
		return err
	}
	publicPEM, err := publicKeyPEM(key)
	if err != nil {
		return err
	}
	if err := os.WriteFile(public, publicPEM, 0o600); err != nil {
		return err
	}
	return os.WriteFile(private, privatePEM, 0o600)
}
