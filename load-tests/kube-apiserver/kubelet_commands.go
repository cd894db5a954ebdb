package main

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"k8s.io/cri-streaming/pkg/streaming/remotecommand"
	utilexec "k8s.io/utils/exec"
)

// echoPort is the one port every pod listens on; it sends back what it gets.
const echoPort = 7

// The exit codes of a shell for a command that is not there, and for one that
// is not used as it should be.
const (
	commandNotFound = 127
	commandMisused  = 2
)

// process is a command under way: what a container's process would have.
type process struct {
	arguments   []string
	in          io.Reader
	out, errors io.Writer
	resize      <-chan remotecommand.TerminalSize
	kubelet     *fakeKubelet
	pod         string // NAMESPACE/NAME
}

// commands are all there is to run in a container, each with what it is for.
var commands = map[string]func(process) error{
	"echo":   echoArguments, // echo WORD...
	"report": report,        // report STDOUT STDERR CODE: both streams and a code
	"exit":   exit,          // exit CODE
	"cat":    cat,           // standard input to standard output, until its end
	"sha256": sum,           // the digest and length of standard input
	"bytes":  produce,       // bytes COUNT: so many bytes
	"sizes":  sizes,         // the terminal's sizes, until a q or the end of standard input
	"test":   isDirectory,   // test -d PATH, as kubectl cp asks
	"tar":    tar,           // tar as kubectl cp calls it
	// How many sessions of each kind the pod has, this one included: a test sees
	// whether what a client left has ended here. (The apiserver's proxy to the
	// node, another way to ask, refuses loopback addresses.)
	"sessions": sessions,
}

// ExecInContainer runs a command; see remotecommand.Executor.
func (k *fakeKubelet) ExecInContainer(_ context.Context, pod, _, _ string, command []string, in io.Reader, out, errors io.WriteCloser, _ bool, resize <-chan remotecommand.TerminalSize, _ time.Duration) error {
	p := process{in: in, out: orDiscard(out), errors: orDiscard(errors), resize: resize, kubelet: k, pod: pod}
	if in == nil {
		p.in = strings.NewReader("")
	}
	if len(command) == 0 {
		return fail(commandNotFound, "no command")
	}
	run, known := commands[command[0]]
	if !known {
		return fail(commandNotFound, "%s: not found", command[0])
	}
	p.arguments = command[1:]
	defer end(out, errors)
	return run(p)
}

// end tells the reader of each stream that there is no more.
func end(streams ...io.WriteCloser) {
	for _, stream := range streams {
		if stream != nil {
			_ = stream.Close()
		}
	}
}

// AttachContainer is attached to a process that sends back what it gets; see
// remotecommand.Attacher.
func (k *fakeKubelet) AttachContainer(_ context.Context, _, _, _ string, in io.Reader, out, _ io.WriteCloser, _ bool, _ <-chan remotecommand.TerminalSize) error {
	if in == nil {
		return nil
	}
	defer end(out)
	_, err := io.Copy(orDiscard(out), in)
	return err
}

// PortForward connects a stream to the echo server; see
// portforward.PortForwarder.
func (k *fakeKubelet) PortForward(_ context.Context, _, _ string, port int32, stream io.ReadWriteCloser) error {
	if port != echoPort {
		return fmt.Errorf("connection refused: nothing but port %d is open", echoPort)
	}
	connection, err := net.Dial("tcp", k.echo)
	if err != nil {
		return err
	}
	defer connection.Close()
	go func() {
		_, _ = io.Copy(connection, stream)
		_ = connection.(*net.TCPConn).CloseWrite()
	}()
	_, err = io.Copy(stream, connection)
	return err
}

// startEcho listens until the process ends and returns where.
func startEcho() (string, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	go func() {
		for {
			connection, err := listener.Accept()
			if err != nil {
				return
			}
			go func() {
				defer connection.Close()
				_, _ = io.Copy(connection, connection)
			}()
		}
	}()
	return listener.Addr().String(), nil
}

// fail is the end of a process with a code other than 0.
func fail(code int, format string, values ...any) error {
	return utilexec.CodeExitError{Err: fmt.Errorf(format, values...), Code: code}
}

func orDiscard(stream io.WriteCloser) io.Writer {
	if stream == nil {
		return io.Discard
	}
	return stream
}

func echoArguments(p process) error {
	_, err := fmt.Fprintln(p.out, strings.Join(p.arguments, " "))
	return err
}

func report(p process) error {
	if len(p.arguments) != 3 {
		return fail(commandMisused, "report: not three arguments")
	}
	fmt.Fprintln(p.out, p.arguments[0])
	fmt.Fprintln(p.errors, p.arguments[1])
	p.arguments = p.arguments[2:]
	return exit(p)
}

func exit(p process) error {
	code, err := strconv.Atoi(strings.Join(p.arguments, ""))
	if err != nil {
		return fail(commandMisused, "exit: %v", err)
	}
	if code == 0 {
		return nil
	}
	return fail(code, "exit %d", code)
}

func cat(p process) error {
	_, err := io.Copy(p.out, p.in)
	return err
}

func sum(p process) error {
	hash := sha256.New()
	length, err := io.Copy(hash, p.in)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(p.out, "%x %d\n", hash.Sum(nil), length)
	return err
}

func produce(p process) error {
	count, err := strconv.ParseInt(strings.Join(p.arguments, ""), 10, 64)
	if err != nil {
		return fail(commandMisused, "bytes: %v", err)
	}
	_, err = io.CopyN(p.out, zeros{}, count)
	return err
}

// zeros is endless.
type zeros struct{}

func (zeros) Read(buffer []byte) (int, error) {
	clear(buffer)
	return len(buffer), nil
}

func sizes(p process) error {
	left := make(chan struct{})
	go func() {
		defer close(left)
		key := make([]byte, 1)
		for {
			if _, err := io.ReadFull(p.in, key); err != nil || key[0] == 'q' {
				return
			}
		}
	}()
	for {
		select {
		case <-left:
			return nil
		case size, more := <-p.resize:
			if !more {
				p.resize = nil
				continue
			}
			if _, err := fmt.Fprintf(p.out, "%dx%d\r\n", size.Width, size.Height); err != nil {
				return err
			}
		}
	}
}

// inside makes a path of the container relative to its root, which it cannot
// leave.
func inside(path string) string {
	return "." + filepath.Clean("/"+path)
}

func isDirectory(p process) error {
	if len(p.arguments) != 2 || p.arguments[0] != "-d" {
		return fail(commandMisused, "test: not -d PATH")
	}
	info, err := os.Stat(filepath.Join(p.kubelet.root, inside(p.arguments[1])))
	if err != nil || !info.IsDir() {
		return fail(1, "not a directory")
	}
	return nil
}

// tar is the host's, which kubectl cp asks to pack one path to standard output
// (`tar cf - PATH`) or to unpack standard input (`tar -xmf - -C PATH`). It gets
// nothing else, because tar's options can start programs.
func tar(p process) error {
	var words []string
	for index, word := range p.arguments {
		switch {
		case index == 0 && (word == "cf" || word == "-xmf" || word == "xmf"), word == "-", word == "-C":
			words = append(words, word)
		case strings.HasPrefix(word, "-"):
			return fail(commandMisused, "tar: %s: only what kubectl cp asks for", word)
		default:
			// Without the leading dot, or kubectl does not know it again.
			words = append(words, strings.TrimPrefix(inside(word), "./"))
		}
	}
	command := exec.Command("tar", words...)
	command.Dir = p.kubelet.root
	command.Stdin, command.Stdout, command.Stderr = p.in, p.out, p.errors
	err := command.Run()
	var ended *exec.ExitError
	if errors.As(err, &ended) {
		return fail(ended.ExitCode(), "tar: %v", ended)
	}
	return err
}

func sessions(p process) error {
	for _, kind := range []sessionKind{execSession, attachSession, portForwardSession, logSession} {
		if _, err := fmt.Fprintln(p.out, kind, p.kubelet.sessions.of(p.pod, kind)); err != nil {
			return err
		}
	}
	return nil
}
