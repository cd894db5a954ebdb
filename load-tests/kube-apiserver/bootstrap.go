package main

import (
	"context"
	"fmt"
	"time"

	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"
)

// readyInterval is how often readiness is asked for, and readyPatience how long
// one answer may take.
const (
	readyInterval = 100 * time.Millisecond
	readyPatience = 2 * time.Second
)

// bootstrap waits for the server to be ready and then does what kubeadm does
// first: with super-admin.conf, it makes the group of admin.conf cluster
// administrators. A node and an aggregated API that are asked for join last. It
// gives up when ctx ends.
func bootstrap(ctx context.Context, opts options) error {
	client, err := superAdmin(opts)
	if err != nil {
		return err
	}
	if err := waitUntilReady(ctx, client); err != nil {
		return err
	}
	binding := &rbacv1.ClusterRoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: adminGroup},
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "cluster-admin"},
		Subjects:   []rbacv1.Subject{{APIGroup: rbacv1.GroupName, Kind: rbacv1.GroupKind, Name: adminGroup}},
	}
	_, err = client.RbacV1().ClusterRoleBindings().Create(ctx, binding, metav1.CreateOptions{})
	if err != nil && !apierrors.IsAlreadyExists(err) {
		return fmt.Errorf("creating the ClusterRoleBinding %s: %w", adminGroup, err)
	}
	if opts.fakeKubelet != "" {
		if err := startFakeKubelet(ctx, client, opts); err != nil {
			return err
		}
	}
	if opts.aggregatedAPI {
		return startAggregated(ctx, client, opts)
	}
	return nil
}

func waitUntilReady(ctx context.Context, client kubernetes.Interface) error {
	for {
		attempt, cancel := context.WithTimeout(ctx, readyPatience)
		err := client.Discovery().RESTClient().Get().AbsPath("/readyz").Do(attempt).Error()
		cancel()
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%w; the last answer was: %w", ctx.Err(), err)
		case <-time.After(readyInterval):
		}
	}
}

// serverVersion is the release the server says it is.
func serverVersion(ctx context.Context, opts options) (string, error) {
	client, err := superAdmin(opts)
	if err != nil {
		return "", err
	}
	version, err := client.DiscoveryClient.ServerVersionWithContext(ctx)
	if err != nil {
		return "", err
	}
	return version.GitVersion, nil
}

func superAdmin(opts options) (*kubernetes.Clientset, error) {
	config, err := clientcmd.BuildConfigFromFlags("", opts.path("super-admin.conf"))
	if err != nil {
		return nil, err
	}
	return kubernetes.NewForConfig(config)
}
