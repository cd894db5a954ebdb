package main

import (
	"context"
	"fmt"

	"golang.org/x/sync/errgroup"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
)

// How many ask at once, to be refused where little is allowed.
const (
	callsAtOnce     = 40
	informersAtOnce = 12
)

// refusals is how a session fared that may have been refused something.
type refusals struct {
	Served  int `json:"served"`
	Refused int `json:"refused"`
	// Early are the calls made again before the time the refusal said.
	Early int `json:"early"`
	// Lists were asked for, Streamed are watches with the initial state.
	Lists    int `json:"lists"`
	Streamed int `json:"streamed"`
}

func (s *session) sayRefusals(served int) error {
	counts := s.seen.counts()
	return s.say(refusals{served, counts.refused, counts.early, counts.lists, counts.streamed})
}

// listWhileRefused makes many expensive calls at once. client-go itself asks
// again what was refused with 429, at the time the refusal said: the caller sees
// every call answered.
func listWhileRefused(ctx context.Context, s *session) error {
	client, err := kubernetes.NewForConfig(s.config)
	if err != nil {
		return err
	}
	var calls errgroup.Group
	for i := range callsAtOnce {
		// Each a bit different, so that the observer can tell them apart.
		patience := int64(300 + i)
		calls.Go(func() error {
			options := metav1.ListOptions{TimeoutSeconds: &patience}
			list, err := client.CoreV1().ConfigMaps(metav1.NamespaceAll).List(ctx, options)
			if err == nil && len(list.Items) == 0 {
				err = fmt.Errorf("a LIST without items")
			}
			return err
		})
	}
	if err := calls.Wait(); err != nil {
		return err
	}
	return s.sayRefusals(callsAtOnce)
}

// startHerd starts many informers of everything at once, as the pods of a
// DaemonSet do. Those that are refused must come back, and must not fall back to
// the LIST that a WatchList is there to avoid.
func startHerd(ctx context.Context, s *session) error {
	client, err := kubernetes.NewForConfig(s.config)
	if err != nil {
		return err
	}
	var syncing errgroup.Group
	for range informersAtOnce {
		factory := informers.NewSharedInformerFactory(client, 0)
		informer := factory.Core().V1().ConfigMaps().Informer()
		factory.StartWithContext(ctx)
		syncing.Go(func() error {
			for kind, done := range factory.WaitForCacheSync(ctx.Done()) {
				if !done {
					return fmt.Errorf("the informer of %v did not sync", kind)
				}
			}
			if len(informer.GetStore().List()) == 0 {
				return fmt.Errorf("an informer synced with nothing")
			}
			return nil
		})
	}
	if err := syncing.Wait(); err != nil {
		return err
	}
	return s.sayRefusals(informersAtOnce)
}
