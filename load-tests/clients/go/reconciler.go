package main

import (
	"context"
	"errors"
	"fmt"
	"strconv"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller/controllerutil"
	"sigs.k8s.io/controller-runtime/pkg/metrics/server"
)

// wishes is how many ConfigMaps ask for a Secret each.
const wishes = 15

// finalizer keeps a wish until what was made for it is gone.
const finalizer = "clients.example.invalid/secret"

// reconciler makes a Secret for each ConfigMap, as an operator does for its
// custom resources.
type reconciler struct{ client.Client }

func (r reconciler) Reconcile(ctx context.Context, request ctrl.Request) (ctrl.Result, error) {
	var wish corev1.ConfigMap
	if err := r.Get(ctx, request.NamespacedName, &wish); err != nil {
		return ctrl.Result{}, client.IgnoreNotFound(err)
	}
	if wish.Data["wish"] == "" {
		return ctrl.Result{}, nil
	}
	secret := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: wish.Name, Namespace: wish.Namespace}}
	if !wish.DeletionTimestamp.IsZero() {
		if err := r.Delete(ctx, secret); client.IgnoreNotFound(err) != nil {
			return ctrl.Result{}, err
		}
		controllerutil.RemoveFinalizer(&wish, finalizer)
		return ctrl.Result{}, r.Update(ctx, &wish)
	}
	if controllerutil.AddFinalizer(&wish, finalizer) {
		return ctrl.Result{}, r.Update(ctx, &wish) // its event brings us back
	}
	_, err := controllerutil.CreateOrUpdate(ctx, r.Client, secret, func() error {
		secret.Data = map[string][]byte{"granted": []byte(wish.Data["wish"])}
		return controllerutil.SetControllerReference(&wish, secret, r.Scheme())
	})
	if apierrors.IsAlreadyExists(err) || apierrors.IsConflict(err) {
		// The cache has not seen it yet.
		return ctrl.Result{Requeue: true}, nil
	}
	return ctrl.Result{}, err
}

// runReconciler runs controller-runtime's manager and sees the reconciler do its
// work.
func runReconciler(ctx context.Context, s *session) error {
	running, stop := context.WithCancel(ctx)
	defer stop()
	manager, err := s.newManager()
	if err != nil {
		return err
	}
	ended := make(chan error, 1)
	go func() { ended <- manager.Start(running) }()
	direct, err := client.New(rest.CopyConfig(s.config), client.Options{Scheme: manager.GetScheme()})
	if err != nil {
		return err
	}
	if err := s.makeWishes(ctx, direct); err != nil {
		return err
	}
	stop()
	select {
	case err := <-ended:
		return err
	case <-ctx.Done():
		return errors.New("the manager did not stop")
	}
}

func (s *session) newManager() (ctrl.Manager, error) {
	manager, err := ctrl.NewManager(rest.CopyConfig(s.config), ctrl.Options{
		LeaderElection:                true,
		LeaderElectionID:              "reconciler",
		LeaderElectionNamespace:       s.namespace,
		LeaderElectionReleaseOnCancel: true,
		Cache:                         cache.Options{DefaultNamespaces: map[string]cache.Config{s.namespace: {}}},
		Metrics:                       server.Options{BindAddress: "0"},
	})
	if err != nil {
		return nil, err
	}
	return manager, ctrl.NewControllerManagedBy(manager).
		For(&corev1.ConfigMap{}).
		Owns(&corev1.Secret{}).
		Complete(reconciler{manager.GetClient()})
}

func (s *session) makeWishes(ctx context.Context, direct client.Client) error {
	for i := range wishes {
		wish := &corev1.ConfigMap{
			ObjectMeta: metav1.ObjectMeta{Name: "wish-" + strconv.Itoa(i), Namespace: s.namespace},
			Data:       map[string]string{"wish": strconv.Itoa(i)},
		}
		if err := direct.Create(ctx, wish); err != nil {
			return err
		}
	}
	if err := s.granted(ctx, direct, "all", wishes); err != nil {
		return err
	}
	taken := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "wish-0", Namespace: s.namespace}}
	if err := direct.Delete(ctx, taken); err != nil {
		return err
	}
	if err := s.granted(ctx, direct, "one taken away", wishes); err != nil {
		return err
	}
	for i := range wishes / 3 {
		wish := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "wish-" + strconv.Itoa(i), Namespace: s.namespace}}
		if err := direct.Delete(ctx, wish); err != nil {
			return err
		}
	}
	return s.granted(ctx, direct, "a third given up", wishes-wishes/3)
}

// granted waits until there is what was asked for, and nothing else.
func (s *session) granted(ctx context.Context, direct client.Client, after string, count int) error {
	err := until(ctx, after+": the secrets are granted", func() (bool, error) {
		var list corev1.SecretList
		var wishes corev1.ConfigMapList
		here := client.InNamespace(s.namespace)
		if err := errors.Join(direct.List(ctx, &list, here), direct.List(ctx, &wishes, here)); err != nil {
			return false, err
		}
		asked := 0
		for _, wish := range wishes.Items {
			if wish.Data["wish"] != "" {
				asked++
			}
		}
		for _, secret := range list.Items {
			if metav1.GetControllerOf(&secret) == nil {
				return false, fmt.Errorf("%s is nobody's", secret.Name)
			}
		}
		return asked == count && len(list.Items) == count, fmt.Errorf("%d of %d, asked for %d", len(list.Items), count, asked)
	})
	if err != nil {
		return err
	}
	return s.say(map[string]any{"after": after, "granted": count})
}
