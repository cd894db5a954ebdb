package main

import (
	"fmt"
	"net/url"
	"os"
	"time"

	"go.etcd.io/etcd/server/v3/embed"
)

// etcdStartTimeout bounds the wait for etcd to elect itself.
const etcdStartTimeout = 30 * time.Second

// etcdQuota is the size the store may reach, 8 GiB as etcd's documentation
// advises at most: tests seed tens of thousands of objects.
const etcdQuota = 8 << 30

// The longest path a unix socket can have on Linux is 107 bytes.
const maxSocketPath = 107

// etcdSocket is where etcd listens. A socket in a private directory needs no
// port, no certificates, and nobody else can reach it.
func etcdSocket(opts options) string { return opts.path("etcd.sock") }

func startEtcd(opts options) (*embed.Etcd, error) {
	client, err := socketURL(etcdSocket(opts))
	if err != nil {
		return nil, err
	}
	// There are no peers, but there must be an address for them. etcd takes only
	// the host of it, and so listens on a socket with no name.
	peer := url.URL{Scheme: "unix", Path: opts.path("peer.sock")}
	config := embed.NewConfig()
	config.Dir = opts.path("etcd")
	config.Name = "control-plane"
	config.ListenClientUrls = []url.URL{client}
	config.AdvertiseClientUrls = []url.URL{client}
	config.ListenPeerUrls = []url.URL{peer}
	config.AdvertisePeerUrls = []url.URL{peer}
	config.InitialCluster = config.InitialClusterFromName(config.Name)
	config.QuotaBackendBytes = etcdQuota
	// The data need not outlive the host; a stop in order loses nothing.
	config.UnsafeNoFsync = true
	config.LogLevel = "warn"
	config.LogOutputs = []string{"stderr"} // diverted to the log file

	store, err := embed.StartEtcd(config)
	if err != nil {
		return nil, err
	}
	select {
	case <-store.Server.ReadyNotify():
		return store, nil
	case err := <-store.Err():
		return nil, err
	case <-time.After(etcdStartTimeout):
		return nil, fmt.Errorf("not ready within %v", etcdStartTimeout)
	}
}

func socketURL(path string) (url.URL, error) {
	if len(path) > maxSocketPath {
		return url.URL{}, fmt.Errorf("%s is longer than the %d bytes a unix socket's path may have; choose a shorter --dir", path, maxSocketPath)
	}
	// A socket left behind by a run that was killed is in the way.
	if err := os.Remove(path); err != nil && !os.IsNotExist(err) {
		return url.URL{}, err
	}
	return url.URL{Scheme: "unix", Path: path}, nil
}
