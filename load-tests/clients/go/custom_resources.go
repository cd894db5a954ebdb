package main

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/dynamic"
)

var definitions = schema.GroupVersionResource{
	Group: "apiextensions.k8s.io", Version: "v1", Resource: "customresourcedefinitions",
}

// pageSize and widgets make pages of which the last is not full.
const (
	pageSize = 4
	widgets  = 14
)

// customResources defines a resource nobody knew and uses it without types.
func customResources(ctx context.Context, s *session) error {
	client, err := dynamic.NewForConfig(s.config)
	if err != nil {
		return err
	}
	// Definitions are the whole cluster's, so the group has to be ours alone.
	resource := schema.GroupVersionResource{Group: s.namespace + ".example.invalid", Version: "v1", Resource: "widgets"}
	name := resource.Resource + "." + resource.Group
	if _, err := client.Resource(definitions).Create(ctx, definition(resource), metav1.CreateOptions{}); err != nil {
		return fmt.Errorf("defining %s: %w", name, err)
	}
	if err := until(ctx, "the definition is established", func() (bool, error) {
		object, err := client.Resource(definitions).Get(ctx, name, metav1.GetOptions{})
		if err != nil {
			return false, err
		}
		conditions, _, err := unstructured.NestedSlice(object.Object, "status", "conditions")
		return slices.ContainsFunc(conditions, func(condition any) bool {
			fields, _ := condition.(map[string]any)
			return fields["type"] == "Established" && fields["status"] == "True"
		}), err
	}); err != nil {
		return err
	}
	objects := client.Resource(resource).Namespace(s.namespace)
	// Established is said a moment before it is served.
	if err := until(ctx, "the resource is served", func() (bool, error) {
		_, err := objects.List(ctx, metav1.ListOptions{})
		return err == nil, err
	}); err != nil {
		return err
	}
	if err := s.useWidgets(ctx, objects, resource); err != nil {
		return err
	}
	return client.Resource(definitions).Delete(ctx, name, metav1.DeleteOptions{})
}

func (s *session) useWidgets(ctx context.Context, objects dynamic.ResourceInterface, resource schema.GroupVersionResource) error {
	watcher, err := objects.Watch(ctx, metav1.ListOptions{})
	if err != nil {
		return err
	}
	defer watcher.Stop()
	for i := range widgets {
		if _, err := objects.Create(ctx, widget(resource, i), metav1.CreateOptions{}); err != nil {
			return err
		}
	}
	var pages []int
	options := metav1.ListOptions{Limit: pageSize}
	for {
		page, err := objects.List(ctx, options)
		if err != nil {
			return err
		}
		pages = append(pages, len(page.Items))
		if options.Continue = page.GetContinue(); options.Continue == "" {
			break
		}
	}
	if err := s.say(map[string]any{"pages": pages}); err != nil {
		return err
	}
	patched, err := objects.Patch(ctx, "widget-0", types.MergePatchType, []byte(`{"spec":{"size":77}}`), metav1.PatchOptions{})
	if err != nil {
		return err
	}
	// The status is a subresource: what else is in the request must not count.
	patched.Object["status"] = map[string]any{"ready": true}
	patched.Object["spec"] = map[string]any{"size": int64(1)}
	patched, err = objects.UpdateStatus(ctx, patched, metav1.UpdateOptions{})
	if err != nil {
		return err
	}
	if err := s.say(map[string]any{"spec": patched.Object["spec"], "status": patched.Object["status"]}); err != nil {
		return err
	}
	_, err = objects.Create(ctx, widget(resource, -1), metav1.CreateOptions{})
	if err := s.say(map[string]any{"invalid": fmt.Sprint(err)}); err != nil {
		return err
	}
	if err := objects.DeleteCollection(ctx, metav1.DeleteOptions{}, metav1.ListOptions{}); err != nil {
		return err
	}
	events := make(map[string]int)
	for events["DELETED"] < widgets {
		select {
		case event, open := <-watcher.ResultChan():
			if !open {
				return fmt.Errorf("the watch ended after %v", events)
			}
			events[string(event.Type)]++
		case <-ctx.Done():
			return fmt.Errorf("only %v: %w", events, ctx.Err())
		}
	}
	return s.say(map[string]any{"events": events})
}

func widget(resource schema.GroupVersionResource, size int) *unstructured.Unstructured {
	return &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": resource.GroupVersion().String(),
		"kind":       "Widget",
		"metadata":   map[string]any{"name": "widget-" + strings.TrimPrefix(strconv.Itoa(size), "-")},
		"spec":       map[string]any{"size": int64(size)},
	}}
}

func definition(resource schema.GroupVersionResource) *unstructured.Unstructured {
	object := func(properties map[string]any) map[string]any {
		return map[string]any{"type": "object", "properties": properties}
	}
	return &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": definitions.GroupVersion().String(),
		"kind":       "CustomResourceDefinition",
		"metadata":   map[string]any{"name": resource.Resource + "." + resource.Group},
		"spec": map[string]any{
			"group": resource.Group,
			"scope": "Namespaced",
			"names": map[string]any{"plural": resource.Resource, "singular": "widget", "kind": "Widget"},
			"versions": []any{map[string]any{
				"name": resource.Version, "served": true, "storage": true,
				"subresources": map[string]any{"status": map[string]any{}},
				"schema": map[string]any{"openAPIV3Schema": object(map[string]any{
					"spec":   object(map[string]any{"size": map[string]any{"type": "integer", "minimum": int64(0)}}),
					"status": object(map[string]any{"ready": map[string]any{"type": "boolean"}}),
				})},
			}},
		},
	}}
}
