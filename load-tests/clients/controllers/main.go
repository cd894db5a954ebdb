// Command controllers runs the clients every cluster has besides its nodes:
// Kubernetes' own controller manager and scheduler, of the module versions
// pinned in go.mod, linked in unchanged. They are the strictest clients there
// are: built on informers and leader election, and gone from the cluster the
// moment either fails.
//
//	controllers kube-controller-manager FLAG...
//	controllers kube-scheduler FLAG...
//
// Flags, log and exit status are those of the two. So that a caller that dies
// leaves nothing behind, the end of standard input ends the program, too.
package main

import (
	"fmt"
	"io"
	"os"
	"syscall"

	"github.com/spf13/cobra"
	"k8s.io/component-base/cli"
	controllermanager "k8s.io/kubernetes/cmd/kube-controller-manager/app"
	scheduler "k8s.io/kubernetes/cmd/kube-scheduler/app"

	// What the project's own main packages link in besides.
	_ "time/tzdata"

	_ "k8s.io/component-base/logs/json/register"
	_ "k8s.io/component-base/metrics/prometheus/clientgo"
	_ "k8s.io/component-base/metrics/prometheus/version"
)

// commands are the programs this one can be.
var commands = map[string]func() *cobra.Command{
	"kube-controller-manager": controllermanager.NewControllerManagerCommand,
	"kube-scheduler":          func() *cobra.Command { return scheduler.NewSchedulerCommand() },
}

const exitBadUsage = 2

func main() {
	var name string
	if len(os.Args) > 1 {
		name = os.Args[1]
	}
	create, known := commands[name]
	if !known {
		fmt.Fprintln(os.Stderr, "usage: controllers kube-controller-manager|kube-scheduler FLAG...")
		os.Exit(exitBadUsage)
	}
	command := create()
	command.SetArgs(os.Args[2:])
	go endWithStandardInput()
	os.Exit(cli.Run(command))
}

// endWithStandardInput asks the program to stop as its supervisor would.
func endWithStandardInput() {
	_, _ = io.Copy(io.Discard, os.Stdin)
	_ = syscall.Kill(os.Getpid(), syscall.SIGTERM)
}
