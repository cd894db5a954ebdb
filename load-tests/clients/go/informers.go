package main

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"golang.org/x/sync/errgroup"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
)

// versions are objects by name, each with what changes when it does.
type versions map[string]string

func versionOf(object metav1.Object) string {
	return object.GetResourceVersion() + " " + string(object.GetUID())
}

// runInformers keeps shared informers up while objects come, change and go. One
// factory is there from the beginning, another joins in the middle. In the end
// each store must be what a LIST past the cache says.
func runInformers(ctx context.Context, s *session) error {
	client, err := kubernetes.NewForConfig(s.config)
	if err != nil {
		return err
	}
	resources := churnedResources(client, s.namespace)
	early, err := startFollowing(ctx, client, s.namespace, resources)
	if err != nil {
		return err
	}
	if err := early.sync(ctx); err != nil {
		return err
	}
	var work errgroup.Group
	for _, resource := range resources {
		work.Go(func() error { return resource.churn(ctx) })
	}
	late, err := startFollowing(ctx, client, s.namespace, resources)
	if err != nil {
		return err
	}
	if err := errors.Join(late.sync(ctx), work.Wait()); err != nil {
		return err
	}
	counts := s.seen.counts()
	for _, resource := range resources {
		truth, err := listed(ctx, client, s.namespace, resource.name)
		if err != nil {
			return err
		}
		for _, f := range []*following{early, late} {
			if err := f.matches(ctx, resource.name, truth); err != nil {
				return err
			}
		}
		if err := s.say(struct {
			Resource string `json:"resource"`
			Objects  int    `json:"objects"`
			// Adds and Deletes are those of the factory that saw it all; updates may
			// be skipped by right.
			Adds    int `json:"adds"`
			Deletes int `json:"deletes"`
		}{resource.name, len(truth), early.adds(resource.name), early.deletes(resource.name)}); err != nil {
			return err
		}
	}
	return s.say(struct {
		Lists    int      `json:"lists"`
		Streamed int      `json:"streamed"`
		Types    []string `json:"types"`
	}{counts.lists, counts.streamed, s.seen.seenTypes()})
}

// following is a factory of informers and what they were told.
type following struct {
	informers map[string]cache.SharedIndexInformer
	factory   informers.SharedInformerFactory
	lock      sync.Mutex
	added     map[string]map[string]bool
	deleted   map[string]int
	// wrong is the first event out of order.
	wrong error
}

func startFollowing(ctx context.Context, client kubernetes.Interface, namespace string, resources []churned) (*following, error) {
	f := &following{
		informers: make(map[string]cache.SharedIndexInformer),
		factory:   informers.NewSharedInformerFactoryWithOptions(client, 0, informers.WithNamespace(namespace)),
		added:     make(map[string]map[string]bool),
		deleted:   make(map[string]int),
	}
	for _, resource := range resources {
		generic, err := f.factory.ForResource(groupOf(resource.name))
		if err != nil {
			return nil, err
		}
		informer := generic.Informer()
		f.informers[resource.name] = informer
		f.added[resource.name] = make(map[string]bool)
		if _, err := informer.AddEventHandler(f.handler(resource.name)); err != nil {
			return nil, err
		}
	}
	f.factory.StartWithContext(ctx)
	return f, nil
}

func groupOf(resource string) schema.GroupVersionResource {
	group := ""
	if resource == "deployments" {
		group = "apps"
	}
	return schema.GroupVersionResource{Group: group, Version: "v1", Resource: resource}
}

// handler checks that an object is added before it changes or goes, and once.
func (f *following) handler(resource string) cache.ResourceEventHandler {
	note := func(kind string, there bool, then func(key string)) func(any) {
		return func(object any) {
			key, err := cache.DeletionHandlingMetaNamespaceKeyFunc(object)
			f.lock.Lock()
			defer f.lock.Unlock()
			if err == nil && f.added[resource][key] != there {
				err = fmt.Errorf("%s of %s %s, which is there: %t", kind, resource, key, !there)
			}
			if err != nil && f.wrong == nil {
				f.wrong = err
			}
			then(key)
		}
	}
	add := note("addition", false, func(key string) { f.added[resource][key] = true })
	update := note("change", true, func(string) {})
	remove := note("deletion", true, func(key string) {
		delete(f.added[resource], key)
		f.deleted[resource]++
	})
	return cache.ResourceEventHandlerFuncs{
		AddFunc:    add,
		UpdateFunc: func(_, object any) { update(object) },
		DeleteFunc: remove,
	}
}

func (f *following) sync(ctx context.Context) error {
	for kind, done := range f.factory.WaitForCacheSync(ctx.Done()) {
		if !done {
			return fmt.Errorf("the informer of %v did not sync", kind)
		}
	}
	return nil
}

func (f *following) adds(resource string) int {
	f.lock.Lock()
	defer f.lock.Unlock()
	return len(f.added[resource]) + f.deleted[resource]
}

func (f *following) deletes(resource string) int {
	f.lock.Lock()
	defer f.lock.Unlock()
	return f.deleted[resource]
}

// matches waits until the store is what it should be, and so is what the handler
// was told.
func (f *following) matches(ctx context.Context, resource string, truth versions) error {
	return until(ctx, "the informer's store of "+resource+" equals a LIST", func() (bool, error) {
		f.lock.Lock()
		told, wrong := len(f.added[resource]), f.wrong
		f.lock.Unlock()
		if wrong != nil {
			return false, wrong
		}
		held := make(versions)
		for _, object := range f.informers[resource].GetStore().List() {
			accessor, ok := object.(metav1.Object)
			if !ok {
				return false, fmt.Errorf("%T has no metadata", object)
			}
			held[accessor.GetName()] = versionOf(accessor)
		}
		return told == len(truth) && same(held, truth), differing(held, truth)
	})
}

func same(held, truth versions) bool { return differing(held, truth) == nil }

func differing(held, truth versions) error {
	for name, version := range truth {
		if held[name] != version {
			return fmt.Errorf("%s is %q here and %q there", name, held[name], version)
		}
	}
	if len(held) != len(truth) {
		return fmt.Errorf("%d objects here and %d there", len(held), len(truth))
	}
	return nil
}

// listed is what the store behind the server holds.
func listed(ctx context.Context, client kubernetes.Interface, namespace, resource string) (versions, error) {
	truth := make(versions)
	all := metav1.ListOptions{}
	switch resource {
	case "configmaps":
		list, err := client.CoreV1().ConfigMaps(namespace).List(ctx, all)
		if err != nil {
			return nil, err
		}
		for _, object := range list.Items {
			truth[object.Name] = versionOf(&object)
		}
	case "secrets":
		list, err := client.CoreV1().Secrets(namespace).List(ctx, all)
		if err != nil {
			return nil, err
		}
		for _, object := range list.Items {
			truth[object.Name] = versionOf(&object)
		}
	case "deployments":
		list, err := client.AppsV1().Deployments(namespace).List(ctx, all)
		if err != nil {
			return nil, err
		}
		for _, object := range list.Items {
			truth[object.Name] = versionOf(&object)
		}
	default:
		return nil, fmt.Errorf("%s is not one of the churned resources", resource)
	}
	return truth, nil
}
