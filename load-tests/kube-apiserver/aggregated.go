package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"strconv"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/utils/ptr"
)

// The aggregated API: one group with one resource, which are lamps.
const (
	aggregatedGroup   = "mirror.spillway.test"
	aggregatedVersion = "v1"
	aggregatedPath    = "/apis/" + aggregatedGroup + "/" + aggregatedVersion
	// mirrorName is the name of the Service, its EndpointSlice and the Pod.
	mirrorName      = "mirror"
	mirrorNamespace = metav1.NamespaceDefault
)

// lampEvents is how many events a watch of lamps has after the first ones,
// lampInterval how far apart they are.
const (
	lampEvents   = 5
	lampInterval = 20 * time.Millisecond
)

type lamp struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata"`
	On                bool `json:"on"`
}

type lampList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata"`
	Items           []lamp `json:"items"`
}

func newLamp(name string, version int, on bool) lamp {
	return lamp{
		TypeMeta: metav1.TypeMeta{APIVersion: aggregatedGroup + "/" + aggregatedVersion, Kind: "Lamp"},
		ObjectMeta: metav1.ObjectMeta{
			Name:            name,
			UID:             types.UID("00000000-0000-0000-0000-00000000000" + strconv.Itoa(version)),
			ResourceVersion: strconv.Itoa(version),
		},
		On: on,
	}
}

func lamps() []lamp {
	return []lamp{newLamp("desk", 1, false), newLamp("door", 2, true), newLamp("hall", 3, false)}
}

// startAggregated serves the aggregated API and the mirror, over TLS to the
// apiserver and nobody else, and in plain text as a Pod does; and it registers
// both: an APIService, and a Service and a Pod for the proxy subresources.
func startAggregated(ctx context.Context, client kubernetes.Interface, opts options) error {
	config, err := aggregatedTLS(opts)
	if err != nil {
		return err
	}
	secure, err := serve(aggregatedHandler(), config)
	if err != nil {
		return err
	}
	mirror := http.NewServeMux()
	handleMirror(mirror, "/mirror")
	plain, err := serve(mirror, nil)
	if err != nil {
		return err
	}
	if err := registerMirror(ctx, client, secure, plain); err != nil {
		return fmt.Errorf("registering the Service and Pod %s: %w", mirrorName, err)
	}
	return registerAPIService(ctx, client, opts, secure)
}

// serve serves on a free loopback port until the process ends.
func serve(handler http.Handler, config *tls.Config) (port int32, err error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, err
	}
	server := &http.Server{Handler: handler, TLSConfig: config, ReadHeaderTimeout: time.Minute}
	if config == nil {
		go func() { _ = server.Serve(listener) }()
	} else {
		go func() { _ = server.ServeTLS(listener, "", "") }()
	}
	return int32(listener.Addr().(*net.TCPAddr).Port), nil
}

// aggregatedTLS accepts nobody but the holder of the front-proxy certificate,
// which is the one that may say who asks.
func aggregatedTLS(opts options) (*tls.Config, error) {
	authority, err := readPair(opts.path("pki", "ca"))
	if err != nil {
		return nil, err
	}
	serving, err := authority.issue(opts.algorithm, subject{
		commonName: mirrorName,
		usage:      x509.ExtKeyUsageServerAuth,
		names:      []string{mirrorName + "." + mirrorNamespace + ".svc"},
	})
	if err != nil {
		return nil, err
	}
	frontProxy, err := readPair(opts.path("pki", "front-proxy-ca"))
	if err != nil {
		return nil, err
	}
	clients := x509.NewCertPool()
	clients.AddCert(frontProxy.certificate)
	return &tls.Config{
		MinVersion:   tls.VersionTLS12,
		Certificates: []tls.Certificate{{Certificate: [][]byte{serving.certificate.Raw}, PrivateKey: serving.key}},
		ClientAuth:   tls.VerifyClientCertIfGiven, // discovery of availability is anonymous
		ClientCAs:    clients,
	}, nil
}

func aggregatedHandler() http.Handler {
	mux := http.NewServeMux()
	handleMirror(mux, aggregatedPath+"/mirror")
	mux.HandleFunc(aggregatedPath, func(w http.ResponseWriter, _ *http.Request) {
		answer(w, http.StatusOK, metav1.APIResourceList{
			TypeMeta:     metav1.TypeMeta{APIVersion: "v1", Kind: "APIResourceList"},
			GroupVersion: aggregatedGroup + "/" + aggregatedVersion,
			APIResources: []metav1.APIResource{{
				Name: "lamps", SingularName: "lamp", Kind: "Lamp",
				Verbs: metav1.Verbs{"get", "list", "watch"},
			}},
		})
	})
	mux.HandleFunc(aggregatedPath+"/lamps", listLamps)
	mux.HandleFunc(aggregatedPath+"/lamps/{name}", func(w http.ResponseWriter, r *http.Request) {
		for _, lamp := range lamps() {
			if lamp.Name == r.PathValue("name") {
				answer(w, http.StatusOK, lamp)
				return
			}
		}
		status := apierrors.NewNotFound(corev1.Resource("lamps"), r.PathValue("name")).ErrStatus
		status.TypeMeta = metav1.TypeMeta{APIVersion: "v1", Kind: "Status"}
		answer(w, http.StatusNotFound, status)
	})
	return mux
}

func answer(w http.ResponseWriter, code int, object any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	_ = json.NewEncoder(w).Encode(object)
}

// listLamps answers a LIST, or a WATCH that ends by itself.
func listLamps(w http.ResponseWriter, r *http.Request) {
	if watch, _ := strconv.ParseBool(r.FormValue("watch")); !watch {
		answer(w, http.StatusOK, lampList{
			TypeMeta: metav1.TypeMeta{APIVersion: aggregatedGroup + "/" + aggregatedVersion, Kind: "LampList"},
			ListMeta: metav1.ListMeta{ResourceVersion: "3"},
			Items:    lamps(),
		})
		return
	}
	w.Header().Set("Content-Type", "application/json")
	events := json.NewEncoder(w)
	for _, lamp := range lamps() {
		_ = events.Encode(map[string]any{"type": "ADDED", "object": lamp})
	}
	for number := range lampEvents {
		if http.NewResponseController(w).Flush() != nil {
			return
		}
		select {
		case <-r.Context().Done():
			return
		case <-time.After(lampInterval):
		}
		_ = events.Encode(map[string]any{"type": "MODIFIED", "object": newLamp("desk", 4+number, number%2 == 0)})
	}
}

// registerMirror makes what the proxy subresources resolve: a Pod with an
// address, and a Service with it as its endpoint. The apiserver dials the
// ports through the egress, so they are the ports of this host.
func registerMirror(ctx context.Context, client kubernetes.Interface, secure, plain int32) error {
	account := &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: "default"}}
	_, err := client.CoreV1().ServiceAccounts(mirrorNamespace).Create(ctx, account, metav1.CreateOptions{})
	if err != nil && !apierrors.IsAlreadyExists(err) {
		return err
	}
	meta := metav1.ObjectMeta{Name: mirrorName, Labels: map[string]string{discoveryv1.LabelServiceName: mirrorName}}
	pods := client.CoreV1().Pods(mirrorNamespace)
	pod, err := pods.Create(ctx, &corev1.Pod{
		ObjectMeta: meta,
		Spec: corev1.PodSpec{
			AutomountServiceAccountToken: ptr.To(false),
			Containers: []corev1.Container{{
				Name: "main", Image: "registry.invalid/mirror:1",
				Ports: []corev1.ContainerPort{{Name: "plain", ContainerPort: plain}},
			}},
		},
	}, metav1.CreateOptions{})
	if err != nil {
		return err
	}
	pod.Status = corev1.PodStatus{
		Phase:  corev1.PodRunning,
		PodIP:  inclusterAddress,
		PodIPs: []corev1.PodIP{{IP: inclusterAddress}},
	}
	if _, err := pods.UpdateStatus(ctx, pod, metav1.UpdateOptions{}); err != nil {
		return err
	}
	_, err = client.CoreV1().Services(mirrorNamespace).Create(ctx, &corev1.Service{
		ObjectMeta: meta,
		Spec: corev1.ServiceSpec{Ports: []corev1.ServicePort{
			{Name: "secure", Port: secure},
			{Name: "plain", Port: plain},
		}},
	}, metav1.CreateOptions{})
	if err != nil {
		return err
	}
	_, err = client.DiscoveryV1().EndpointSlices(mirrorNamespace).Create(ctx, &discoveryv1.EndpointSlice{
		ObjectMeta:  meta,
		AddressType: discoveryv1.AddressTypeIPv4,
		Endpoints: []discoveryv1.Endpoint{{
			Addresses:  []string{inclusterAddress},
			Conditions: discoveryv1.EndpointConditions{Ready: ptr.To(true)},
			TargetRef:  &corev1.ObjectReference{Kind: "Pod", Namespace: mirrorNamespace, Name: mirrorName, UID: pod.UID},
		}},
		Ports: []discoveryv1.EndpointPort{
			{Name: ptr.To("secure"), Port: ptr.To(secure)},
			{Name: ptr.To("plain"), Port: ptr.To(plain)},
		},
	}, metav1.CreateOptions{})
	return err
}

// registerAPIService returns when the apiserver serves the group.
func registerAPIService(ctx context.Context, client kubernetes.Interface, opts options, port int32) error {
	authority, err := readPair(opts.path("pki", "ca"))
	if err != nil {
		return err
	}
	service := map[string]any{
		"apiVersion": "apiregistration.k8s.io/v1",
		"kind":       "APIService",
		"metadata":   map[string]any{"name": aggregatedVersion + "." + aggregatedGroup},
		"spec": map[string]any{
			"group":                aggregatedGroup,
			"version":              aggregatedVersion,
			"groupPriorityMinimum": 100,
			"versionPriority":      100,
			"caBundle":             authority.certificatePEM(),
			"service":              map[string]any{"namespace": mirrorNamespace, "name": mirrorName, "port": port},
		},
	}
	body, err := json.Marshal(service)
	if err != nil {
		return err
	}
	rest := client.Discovery().RESTClient()
	err = rest.Post().AbsPath("/apis/apiregistration.k8s.io/v1/apiservices").Body(body).Do(ctx).Error()
	if err != nil {
		return fmt.Errorf("registering the APIService: %w", err)
	}
	for {
		err := rest.Get().AbsPath(aggregatedPath + "/lamps").Do(ctx).Error()
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%w; the aggregated API's last answer was: %w", ctx.Err(), err)
		case <-time.After(readyInterval):
		}
	}
}
