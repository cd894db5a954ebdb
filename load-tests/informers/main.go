// Command informers runs client-go informers, as controllers do, and counts
// what they ask of the server: above all how often they LIST, which is what an
// interruption should not cost.
//
// It reads commands from standard input, a line each, and answers each with a
// line: "count" with the counts so far, "seen NAME" with how many informers
// have the object. It ends with its input.
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/clientcmd"
)

// startup is how long all informers may take to have their first state.
const startup = 2 * time.Minute

func main() {
	kubeconfig := flag.String("kubeconfig", "", "the server and the credentials")
	namespace := flag.String("namespace", "default", "the namespace whose config maps are watched")
	count := flag.Int("informers", 100, "how many informers")
	perConnection := flag.Int("per-connection", 20, "how many of them share a connection, as those of a controller do")
	flag.Parse()
	if err := run(*kubeconfig, *namespace, *count, *perConnection); err != nil {
		fmt.Fprintln(os.Stderr, "informers:", err)
		os.Exit(1)
	}
}

func run(kubeconfig, namespace string, count, perConnection int) error {
	if count < 1 || count > 10000 || perConnection < 1 {
		return fmt.Errorf("from 1 to 10000 informers, at least 1 per connection")
	}
	stop := make(chan struct{})
	defer close(stop)
	calls := newCalls()
	var stores []cache.Store
	var synced []cache.InformerSynced
	for first := 0; first < count; first += perConnection {
		client, err := connect(kubeconfig, calls)
		if err != nil {
			return err
		}
		for range min(perConnection, count-first) {
			source := cache.NewListWatchFromClient(client.CoreV1().RESTClient(), "configmaps", namespace, fields.Everything())
			informer := cache.NewSharedIndexInformer(source, &corev1.ConfigMap{}, 0, nil)
			go informer.Run(stop)
			stores = append(stores, informer.GetStore())
			synced = append(synced, informer.HasSynced)
		}
	}
	deadline, cancel := context.WithTimeout(context.Background(), startup)
	defer cancel()
	if !cache.WaitForCacheSync(deadline.Done(), synced...) {
		return fmt.Errorf("not all informers had their first state after %s: %+v", startup, calls.snapshot())
	}
	fmt.Println("synced")
	return answer(os.Stdin, os.Stdout, namespace, stores, calls)
}

// connect makes a client with a connection of its own.
func connect(kubeconfig string, calls *calls) (kubernetes.Interface, error) {
	config, err := clientcmd.BuildConfigFromFlags("", kubeconfig)
	if err != nil {
		return nil, err
	}
	// As controller-runtime does: the server's push-back is the limit.
	config.QPS = -1
	// With a dialer of its own, client-go's cache of transports does not share the connection.
	config.Dial = (&net.Dialer{Timeout: 30 * time.Second, KeepAlive: 30 * time.Second}).DialContext
	config.Wrap(calls.wrap)
	return kubernetes.NewForConfig(config)
}

// answer answers commands until there are no more.
func answer(in io.Reader, out io.Writer, namespace string, stores []cache.Store, calls *calls) error {
	answers := json.NewEncoder(out)
	commands := bufio.NewScanner(in)
	for commands.Scan() {
		command, argument, _ := strings.Cut(commands.Text(), " ")
		var answer any
		switch command {
		case "count":
			answer = calls.snapshot()
		case "seen":
			seen := 0
			for _, store := range stores {
				if _, has, err := store.GetByKey(namespace + "/" + argument); err == nil && has {
					seen++
				}
			}
			answer = seen
		default:
			return fmt.Errorf("no such command: %q", command)
		}
		if err := answers.Encode(answer); err != nil {
			return err
		}
	}
	return commands.Err()
}
