package main

import (
	"context"
	"errors"
	"net/http"
	"sync/atomic"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/leaderelection"
	"k8s.io/client-go/tools/leaderelection/resourcelock"
)

// A third of the controller manager's times: 15, 10 and 2 s.
const (
	leaseDuration = 5 * time.Second
	renewDeadline = 3500 * time.Millisecond
	retryPeriod   = 700 * time.Millisecond
)

// leaseName is the one lease there is.
const leaseName = "leader"

// candidate is a process that wants to lead.
type candidate struct {
	name string
	// cut takes its connection away.
	cut     atomic.Bool
	leads   chan struct{}
	stopped chan struct{}
	resign  context.CancelFunc
}

// electLeaders lets a lease change hands in both ways: given up in order, and
// lost because its holder reaches the server no more.
func electLeaders(ctx context.Context, s *session) error {
	first, err := s.campaign(ctx, "first")
	if err != nil {
		return err
	}
	if err := first.wait(ctx, first.leads); err != nil {
		return err
	}
	second, err := s.campaign(ctx, "second")
	if err != nil {
		return err
	}
	// Longer than the lease: it is renewed, or the second would have it.
	if err := stays(ctx, first.stopped, second.leads); err != nil {
		return err
	}
	if err := s.sayHolder(ctx, "renewed"); err != nil {
		return err
	}
	first.resign()
	if err := errors.Join(first.wait(ctx, first.stopped), second.wait(ctx, second.leads)); err != nil {
		return err
	}
	if err := s.sayHolder(ctx, "given up"); err != nil {
		return err
	}
	third, err := s.campaign(ctx, "third")
	if err != nil {
		return err
	}
	second.cut.Store(true)
	// It must stop before anybody else may start.
	if err := second.wait(ctx, second.stopped); err != nil {
		return err
	}
	select {
	case <-third.leads:
		return errors.New("the third leads before the second has stopped")
	default:
	}
	if err := third.wait(ctx, third.leads); err != nil {
		return err
	}
	return s.sayHolder(ctx, "lost")
}

// stays reports either of two things that must not happen for as long as a
// lease.
func stays(ctx context.Context, lost, taken <-chan struct{}) error {
	select {
	case <-lost:
		return errors.New("the first lost its lease")
	case <-taken:
		return errors.New("the second took the lease")
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(leaseDuration + retryPeriod):
		return nil
	}
}

// campaign starts a candidate with connections of its own.
func (s *session) campaign(ctx context.Context, name string) (*candidate, error) {
	c := &candidate{name: name, leads: make(chan struct{}), stopped: make(chan struct{})}
	config := rest.CopyConfig(s.config)
	config.Wrap(func(next http.RoundTripper) http.RoundTripper {
		return roundTripper(func(request *http.Request) (*http.Response, error) {
			if c.cut.Load() {
				return nil, errors.New("cut off")
			}
			return next.RoundTrip(request)
		})
	})
	// As the controller manager's: what does not answer in half the deadline can
	// be asked once more.
	lock, err := resourcelock.NewFromKubeconfig(resourcelock.LeasesResourceLock, s.namespace, leaseName,
		resourcelock.ResourceLockConfig{Identity: name}, config, renewDeadline)
	if err != nil {
		return nil, err
	}
	elector, err := leaderelection.NewLeaderElector(leaderelection.LeaderElectionConfig{
		Lock:            lock,
		Name:            leaseName,
		LeaseDuration:   leaseDuration,
		RenewDeadline:   renewDeadline,
		RetryPeriod:     retryPeriod,
		ReleaseOnCancel: true,
		Callbacks: leaderelection.LeaderCallbacks{
			OnStartedLeading: func(context.Context) { close(c.leads) },
			OnStoppedLeading: func() { close(c.stopped) },
		},
	})
	if err != nil {
		return nil, err
	}
	running, cancel := context.WithCancel(ctx)
	c.resign = cancel
	go elector.Run(running)
	return c, nil
}

func (c *candidate) wait(ctx context.Context, happened <-chan struct{}) error {
	select {
	case <-happened:
		return nil
	case <-ctx.Done():
		return errors.New("waited in vain for candidate " + c.name)
	}
}

func (s *session) sayHolder(ctx context.Context, after string) error {
	client, err := kubernetes.NewForConfig(s.config)
	if err != nil {
		return err
	}
	lease, err := client.CoordinationV1().Leases(s.namespace).Get(ctx, leaseName, metav1.GetOptions{})
	if err != nil {
		return err
	}
	return s.say(struct {
		After       string  `json:"after"`
		Holder      *string `json:"holder"`
		Transitions *int32  `json:"transitions"`
	}{after, lease.Spec.HolderIdentity, lease.Spec.LeaseTransitions})
}
