package main

import (
	"context"
	"fmt"
	"strconv"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
)

// objectsEach is how many objects of each kind the churn leaves or has left.
const objectsEach = 30

// churned is a resource that is created, changed and deleted.
type churned struct {
	name   string
	create func(ctx context.Context, name string) error
	change func(ctx context.Context, name string, patch []byte) error
	remove func(ctx context.Context, name string) error
}

func churnedResources(client kubernetes.Interface, namespace string) []churned {
	configMaps := client.CoreV1().ConfigMaps(namespace)
	secrets := client.CoreV1().Secrets(namespace)
	deployments := client.AppsV1().Deployments(namespace)
	create, change, remove := metav1.CreateOptions{}, metav1.PatchOptions{}, metav1.DeleteOptions{}
	return []churned{{
		"configmaps",
		func(ctx context.Context, name string) error {
			object := &corev1.ConfigMap{ObjectMeta: metadata(name), Data: map[string]string{"key": name}}
			_, err := configMaps.Create(ctx, object, create)
			return err
		},
		func(ctx context.Context, name string, patch []byte) error {
			_, err := configMaps.Patch(ctx, name, types.MergePatchType, patch, change)
			return err
		},
		func(ctx context.Context, name string) error { return configMaps.Delete(ctx, name, remove) },
	}, {
		"secrets",
		func(ctx context.Context, name string) error {
			object := &corev1.Secret{ObjectMeta: metadata(name), Data: map[string][]byte{"key": make([]byte, 2000)}}
			_, err := secrets.Create(ctx, object, create)
			return err
		},
		func(ctx context.Context, name string, patch []byte) error {
			_, err := secrets.Patch(ctx, name, types.MergePatchType, patch, change)
			return err
		},
		func(ctx context.Context, name string) error { return secrets.Delete(ctx, name, remove) },
	}, {
		"deployments",
		func(ctx context.Context, name string) error {
			_, err := deployments.Create(ctx, deployment(name), create)
			return err
		},
		func(ctx context.Context, name string, patch []byte) error {
			_, err := deployments.Patch(ctx, name, types.StrategicMergePatchType, patch, change)
			return err
		},
		func(ctx context.Context, name string) error { return deployments.Delete(ctx, name, remove) },
	}}
}

func metadata(name string) metav1.ObjectMeta {
	return metav1.ObjectMeta{Name: name, Labels: map[string]string{"made-by": "clients"}}
}

func deployment(name string) *appsv1.Deployment {
	labels := map[string]string{"app": name}
	return &appsv1.Deployment{
		ObjectMeta: metadata(name),
		Spec: appsv1.DeploymentSpec{
			Selector: &metav1.LabelSelector{MatchLabels: labels},
			Template: corev1.PodTemplateSpec{
				ObjectMeta: metav1.ObjectMeta{Labels: labels},
				Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "main", Image: "registry.invalid/main:1"}}},
			},
		},
	}
}

// churn creates objects, changes each twice and deletes every third.
func (r churned) churn(ctx context.Context) error {
	for i := range objectsEach {
		name := "object-" + strconv.Itoa(i)
		if err := r.create(ctx, name); err != nil {
			return fmt.Errorf("creating %s %s: %w", r.name, name, err)
		}
		for round := range 2 {
			patch := fmt.Sprintf(`{"metadata":{"annotations":{"round":"%d"}}}`, round)
			if err := r.change(ctx, name, []byte(patch)); err != nil {
				return fmt.Errorf("changing %s %s: %w", r.name, name, err)
			}
		}
		if i%3 == 0 {
			if err := r.remove(ctx, name); err != nil {
				return fmt.Errorf("deleting %s %s: %w", r.name, name, err)
			}
		}
	}
	return nil
}
