package main

import (
	"crypto/x509"
	"fmt"
	"os"

	"golang.org/x/sync/errgroup"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
)

// adminGroup is the group of admin.conf, which a ClusterRoleBinding makes
// cluster administrators (see bootstrap).
const adminGroup = "kubeadm:cluster-admins"

// serverName is what clients verify the serving certificate against.
const serverName = "kubernetes"

// kubeconfigs are the files of kubeadm and whose certificate each one embeds.
var kubeconfigs = map[string]subject{
	"admin.conf":              {commonName: "kubernetes-admin", organizations: []string{adminGroup}},
	"super-admin.conf":        {commonName: "kubernetes-super-admin", organizations: []string{"system:masters"}},
	"controller-manager.conf": {commonName: "system:kube-controller-manager"},
	"scheduler.conf":          {commonName: "system:kube-scheduler"},
}

// ensureKubeconfigs writes the kubeconfigs that are missing or name another
// server than this one.
func ensureKubeconfigs(opts options, server string) error {
	authority, err := readPair(opts.path("pki", "ca"))
	if err != nil {
		return err
	}
	var group errgroup.Group
	for name, s := range kubeconfigs {
		file := opts.path(name)
		if pointsAt(file, server) {
			continue
		}
		s.usage = x509.ExtKeyUsageClientAuth
		group.Go(func() error {
			issued, err := authority.issue(opts.algorithm, s)
			if err != nil {
				return err
			}
			return writeKubeconfig(file, server, authority, s.commonName, issued)
		})
	}
	return group.Wait()
}

func pointsAt(file, server string) bool {
	existing, err := clientcmd.LoadFromFile(file)
	if err != nil {
		return false
	}
	for _, cluster := range existing.Clusters {
		if cluster.Server != server {
			return false
		}
	}
	return len(existing.Clusters) > 0
}

func writeKubeconfig(file, server string, authority pair, user string, credentials pair) error {
	key, err := credentials.keyPEM()
	if err != nil {
		return err
	}
	const cluster = "kubernetes"
	context := fmt.Sprintf("%s@%s", user, cluster)
	config := clientcmdapi.NewConfig()
	config.Clusters[cluster] = &clientcmdapi.Cluster{
		Server:                   server,
		TLSServerName:            serverName,
		CertificateAuthorityData: authority.certificatePEM(),
	}
	config.AuthInfos[user] = &clientcmdapi.AuthInfo{
		ClientCertificateData: credentials.certificatePEM(),
		ClientKeyData:         key,
	}
	config.Contexts[context] = &clientcmdapi.Context{Cluster: cluster, AuthInfo: user}
	config.CurrentContext = context
	text, err := clientcmd.Write(*config)
	if err != nil {
		return err
	}
	return os.WriteFile(file, text, 0o600)
}
