// Command clients uses a cluster the way the programs do that run in one: with
// client-go's informers, leader election, dynamic client, discovery and
// server-side apply, and with controller-runtime. It says what it saw in a form
// that does not differ between two runs, so that a run straight to a server and
// one through a proxy can be compared.
//
//	clients --kubeconfig FILE --namespace NAME SUBCOMMAND [FLAG...]
//
// Each subcommand prints one JSON object per line. The exit status is 0 when
// everything was as it must be in itself (an informer's store equals a LIST, a
// lease changes hands); what it must be like is for the caller to compare. The
// namespace must exist and be the caller's own.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/go-logr/logr"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/klog/v2"
	"sigs.k8s.io/controller-runtime/pkg/log"
)

// patience bounds a whole run: seconds are enough, except on a busy machine.
const patience = 4 * time.Minute

// The exit codes besides 0.
const (
	exitFailed   = 1
	exitBadUsage = 2
)

// session is one run against one cluster.
type session struct {
	config    *rest.Config
	namespace string
	seen      *observer
	arguments []string
}

// subcommands are all there is to run.
var subcommands = map[string]func(context.Context, *session) error{
	"apply":      applyOnTheServer,
	"discovery":  discover,
	"dynamic":    customResources,
	"election":   electLeaders,
	"herd":       startHerd,
	"informers":  runInformers,
	"reconciler": runReconciler,
	"refused":    listWhileRefused,
	"resume":     resumeWatches,
}

func main() {
	// What the libraries log differs from run to run; it goes to standard error.
	klog.LogToStderr(true)
	log.SetLogger(logr.Discard())
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintf(os.Stderr, "clients: %v\n", err)
		var usage usageError
		if errors.As(err, &usage) || errors.Is(err, flag.ErrHelp) {
			os.Exit(exitBadUsage)
		}
		os.Exit(exitFailed)
	}
}

// usageError is a command line that cannot be run.
type usageError struct{ problem string }

func (e usageError) Error() string { return e.problem }

func run(arguments []string) error {
	set := flag.NewFlagSet("clients", flag.ContinueOnError)
	kubeconfig := set.String("kubeconfig", "", "`file` that says where the cluster is and who we are")
	namespace := set.String("namespace", "", "`name` of an empty namespace to work in")
	encoding := set.String("encoding", "json", "json or protobuf, of what has both")
	watchList := set.Bool("watch-list", true, "whether informers ask for their initial state as a watch")
	if err := set.Parse(arguments); err != nil {
		return err
	}
	run, known := subcommands[set.Arg(0)]
	if !known {
		names := slices.Sorted(maps.Keys(subcommands))
		return usageError{fmt.Sprintf("%q is none of %s", set.Arg(0), strings.Join(names, ", "))}
	}
	if *kubeconfig == "" || *namespace == "" {
		return usageError{"--kubeconfig and --namespace are required"}
	}
	// client-go reads its feature gates from here when it first asks for one.
	if err := os.Setenv("KUBE_FEATURE_WatchListClient", fmt.Sprint(*watchList)); err != nil {
		return err
	}
	config, err := clientcmd.BuildConfigFromFlags("", *kubeconfig)
	if err != nil {
		return err
	}
	switch *encoding {
	case "json":
		config.ContentType = "application/json"
	case "protobuf":
		config.ContentType = "application/vnd.kubernetes.protobuf"
		config.AcceptContentTypes = "application/vnd.kubernetes.protobuf,application/json"
	default:
		return usageError{fmt.Sprintf("--encoding %q is neither json nor protobuf", *encoding)}
	}
	// No limit of our own, as controllers have none today: the server says when
	// it is too much.
	config.QPS = -1
	s := &session{config: config, namespace: *namespace, seen: newObserver(), arguments: set.Args()[1:]}
	config.Wrap(s.seen.wrap)
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	return run(ctx, s)
}

// say prints a result.
func (s *session) say(result any) error {
	line, err := json.Marshal(result)
	if err != nil {
		return err
	}
	// The namespace is the caller's choice.
	_, err = fmt.Println(strings.ReplaceAll(string(line), s.namespace, "NAMESPACE"))
	return err
}

// until asks again and again, and reports in vain what it waited for.
func until(ctx context.Context, what string, ask func() (bool, error)) error {
	for {
		done, err := ask()
		if done {
			return nil
		}
		select {
		case <-ctx.Done():
			return errors.Join(fmt.Errorf("waited in vain: %s: %w", what, ctx.Err()), err)
		case <-time.After(50 * time.Millisecond):
		}
	}
}
