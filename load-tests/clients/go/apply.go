package main

import (
	"context"
	"fmt"
	"slices"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	applyapps "k8s.io/client-go/applyconfigurations/apps/v1"
	applycore "k8s.io/client-go/applyconfigurations/core/v1"
	applymeta "k8s.io/client-go/applyconfigurations/meta/v1"
	"k8s.io/client-go/kubernetes"
)

// applyOnTheServer lets two managers apply their parts of one object: a
// conflict, its resolution by force, a field given up, a dry run.
func applyOnTheServer(ctx context.Context, s *session) error {
	client, err := kubernetes.NewForConfig(s.config)
	if err != nil {
		return err
	}
	deployments := client.AppsV1().Deployments(s.namespace)
	apply := func(step, manager string, force bool, replicas *int32, dryRun ...string) error {
		object, err := deployments.Apply(ctx, applied(s.namespace, replicas), metav1.ApplyOptions{
			FieldManager: manager, Force: force, DryRun: dryRun,
		})
		said := map[string]any{"step": step}
		if err != nil {
			said["reason"], said["error"] = apierrors.ReasonForError(err), err.Error()
			return s.say(said)
		}
		said["replicas"], said["managers"] = object.Spec.Replicas, managers(object.ManagedFields)
		return s.say(said)
	}
	two, three := int32(2), int32(3)
	steps := []error{
		apply("created", "alpha", false, &two),
		apply("the same", "alpha", false, &two),
		apply("in conflict", "beta", false, &three),
		apply("tried", "beta", true, &three, metav1.DryRunAll),
		apply("forced", "beta", true, &three),
		apply("given up", "beta", false, nil),
	}
	for _, err := range steps {
		if err != nil {
			return err
		}
	}
	extracted, err := deployments.Get(ctx, "web", metav1.GetOptions{})
	if err != nil {
		return err
	}
	own, err := applyapps.ExtractDeployment(extracted, "alpha")
	if err != nil {
		return err
	}
	return s.say(map[string]any{"alphas": own.Spec})
}

func applied(namespace string, replicas *int32) *applyapps.DeploymentApplyConfiguration {
	labels := map[string]string{"app": "web"}
	spec := applyapps.DeploymentSpec().
		WithSelector(applymeta.LabelSelector().WithMatchLabels(labels)).
		WithTemplate(applycore.PodTemplateSpec().WithLabels(labels).WithSpec(
			applycore.PodSpec().WithContainers(applycore.Container().WithName("main").WithImage("registry.invalid/main:1"))))
	if replicas != nil {
		spec = spec.WithReplicas(*replicas)
	}
	return applyapps.Deployment("web", namespace).WithSpec(spec)
}

func managers(entries []metav1.ManagedFieldsEntry) []string {
	var said []string
	for _, entry := range entries {
		said = append(said, fmt.Sprintf("%s %s %s", entry.Manager, entry.Operation, entry.FieldsV1.GetRawString()))
	}
	slices.Sort(said)
	return said
}
