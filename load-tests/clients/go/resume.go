package main

import (
	"context"
	"fmt"
	"strconv"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
	toolswatch "k8s.io/client-go/tools/watch"
)

// Where the connections of watches break: none after nothing, which a reflector
// takes for a server that cannot watch.
var cuts = []int{4000, 9000, 2500, 20000, 6000}

// resumeWatches breaks watches again and again. A reflector must go on from the
// last version it saw, without a LIST and without a gap; a version the server does
// not have must be refused as such.
func resumeWatches(ctx context.Context, s *session) error {
	client, err := kubernetes.NewForConfig(s.config)
	if err != nil {
		return err
	}
	if err := resumeInformer(ctx, s, client); err != nil {
		return err
	}
	if err := resumeEvents(ctx, s, client); err != nil {
		return err
	}
	return tooNew(ctx, s, client)
}

func resumeInformer(ctx context.Context, s *session, client kubernetes.Interface) error {
	resources := churnedResources(client, s.namespace)[:1]
	s.seen.cutWatches(cuts...)
	f, err := startFollowing(ctx, client, s.namespace, resources)
	if err != nil {
		return err
	}
	if err := f.sync(ctx); err != nil {
		return err
	}
	started := s.seen.counts()
	if err := resources[0].churn(ctx); err != nil {
		return err
	}
	truth, err := listed(ctx, client, s.namespace, resources[0].name)
	if err != nil {
		return err
	}
	if err := f.matches(ctx, resources[0].name, truth); err != nil {
		return err
	}
	ended := s.seen.counts()
	return s.say(struct {
		Objects   int  `json:"objects"`
		Adds      int  `json:"adds"`
		Deletes   int  `json:"deletes"`
		CutsLeft  int  `json:"cutsLeft"`
		Resumed   bool `json:"resumed"`
		MoreLists int  `json:"moreLists"`
	}{
		len(truth), f.adds(resources[0].name), f.deletes(resources[0].name), ended.cutsLeft,
		ended.resumed >= len(cuts), ended.lists - started.lists,
	})
}

// resumeEvents follows one watch from a version on, as a program does that wants
// every event once.
func resumeEvents(ctx context.Context, s *session, client kubernetes.Interface) error {
	const rounds = 12
	configMaps := client.CoreV1().ConfigMaps(s.namespace)
	selector := metav1.ListOptions{LabelSelector: "made-by=resume"}
	before, err := configMaps.List(ctx, selector)
	if err != nil {
		return err
	}
	s.seen.cutWatches(1500, 3000, 5000)
	watcher, err := toolswatch.NewRetryWatcherWithContext(ctx, before.ResourceVersion, &cache.ListWatch{
		WatchFuncWithContext: func(ctx context.Context, options metav1.ListOptions) (watch.Interface, error) {
			options.LabelSelector = selector.LabelSelector
			return configMaps.Watch(ctx, options)
		},
	})
	if err != nil {
		return err
	}
	defer watcher.Stop()
	for i := range rounds {
		object := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{
			Name: "event-" + strconv.Itoa(i), Labels: map[string]string{"made-by": "resume"},
		}}
		created, err := configMaps.Create(ctx, object, metav1.CreateOptions{})
		if err != nil {
			return err
		}
		created.Data = map[string]string{"round": strconv.Itoa(i)}
		if _, err := configMaps.Update(ctx, created, metav1.UpdateOptions{}); err != nil {
			return err
		}
		if err := configMaps.Delete(ctx, object.Name, metav1.DeleteOptions{}); err != nil {
			return err
		}
	}
	var events []string
	for len(events) < 3*rounds {
		select {
		case event, open := <-watcher.ResultChan():
			object, ok := event.Object.(*corev1.ConfigMap)
			if !open || !ok {
				return fmt.Errorf("after %v: %v %v", events, event.Type, event.Object)
			}
			events = append(events, string(event.Type)+" "+object.Name)
		case <-ctx.Done():
			return fmt.Errorf("only %v: %w", events, ctx.Err())
		}
	}
	return s.say(struct {
		Events   []string `json:"events"`
		CutsLeft int      `json:"cutsLeft"`
	}{events, s.seen.counts().cutsLeft})
}

// tooNew asks for a state the server has not reached, as a client does that comes
// from a server that is ahead.
func tooNew(ctx context.Context, s *session, client kubernetes.Interface) error {
	_, err := client.CoreV1().ConfigMaps(s.namespace).List(ctx, metav1.ListOptions{ResourceVersion: "9000000000"})
	return s.say(struct {
		Reason   metav1.StatusReason `json:"reason"`
		TooLarge bool                `json:"tooLarge"`
	}{apierrors.ReasonForError(err), apierrors.HasStatusCause(err, metav1.CauseTypeResourceVersionTooLarge)})
}
