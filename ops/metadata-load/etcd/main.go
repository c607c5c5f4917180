// Puts load on etcd for `ops/bench metadata`:
// etcd-load ADDRESSES KEYS VALUE-BYTES OPERATION CLIENTS WARM-UP-SECONDS SECONDS; prints what `LoadResult` reads.
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"log"
	"math/rand"
	"os"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"go.etcd.io/etcd/clientv3"
)

type result struct {
	Seconds   float64             `json:"seconds"`
	Processor float64             `json:"processor"`
	Total     int                 `json:"total"`
	Latencies map[string][][2]int `json:"latencies"`
}

type load struct {
	members    []*clientv3.Client
	keys       int
	value      string
	begin, end time.Time
	lock       sync.Mutex
	total      int
	counts     map[string]map[int]int
}

// Notes the latencies, by their names, of something that ended at `now`.
func (l *load) note(now time.Time, latencies map[string]time.Duration) {
	l.lock.Lock()
	defer l.lock.Unlock()
	l.total++
	if now.Before(l.begin) || now.After(l.end) {
		return
	}
	for name, latency := range latencies {
		if l.counts[name] == nil {
			l.counts[name] = map[int]int{}
		}
		l.counts[name][int(latency.Microseconds())]++
	}
}

func key(number int) string { return fmt.Sprintf("/bench/%06d", number) }

func must(err error) {
	if err != nil {
		log.Fatal(err)
	}
}

func (l *load) fill(client int, clients int) {
	for number := client; number < l.keys; number += clients {
		_, err := l.members[client%len(l.members)].Put(context.Background(), key(number), l.value)
		must(err)
	}
}

func (l *load) repeat(client int, operate func(*clientv3.Client, string) error) {
	random := rand.New(rand.NewSource(time.Now().UnixNano() + int64(client)))
	for now := time.Now(); now.Before(l.end); {
		must(operate(l.members[client%len(l.members)], key(random.Intn(l.keys))))
		done := time.Now()
		l.note(done, map[string]time.Duration{"": done.Sub(now)})
		now = done
	}
}

func (l *load) watch(client int) {
	writer, watcher := l.members[client%len(l.members)], l.members[(client+1)%len(l.members)]
	watched := key(client)
	response, err := watcher.Get(context.Background(), watched)
	must(err)
	events := watcher.Watch(context.Background(), watched, clientv3.WithRev(response.Header.Revision+1))
	for began := time.Now(); began.Before(l.end); began = time.Now() {
		acknowledged := make(chan time.Time, 1)
		go func() {
			_, err := writer.Put(context.Background(), watched, l.value)
			must(err)
			acknowledged <- time.Now()
		}()
		response := <-events
		must(response.Err())
		told := time.Now()
		known := <-acknowledged
		after := told.Sub(known)
		if after < 0 {
			after = 0
		}
		l.note(told, map[string]time.Duration{"from start": told.Sub(began), "from answer": after})
	}
}

func processorSeconds() float64 {
	var usage syscall.Rusage
	must(syscall.Getrusage(syscall.RUSAGE_SELF, &usage))
	return float64(usage.Utime.Nano()+usage.Stime.Nano()) / 1e9
}

func number(text string) float64 {
	value, err := strconv.ParseFloat(text, 64)
	must(err)
	return value
}

func main() {
	arguments := os.Args[1:]
	l := &load{keys: int(number(arguments[1])), value: strings.Repeat("v", int(number(arguments[2]))),
		counts: map[string]map[int]int{}}
	for _, address := range strings.Split(arguments[0], ",") {
		member, err := clientv3.New(clientv3.Config{Endpoints: []string{address}})
		must(err)
		l.members = append(l.members, member)
	}
	operation, clients := arguments[3], int(number(arguments[4]))
	second := float64(time.Second)
	l.begin = time.Now().Add(time.Duration(number(arguments[5]) * second))
	l.end = l.begin.Add(time.Duration(number(arguments[6]) * second))

	var running sync.WaitGroup
	for client := 0; client < clients; client++ {
		running.Add(1)
		go func(client int) {
			defer running.Done()
			switch operation {
			case "fill":
				l.fill(client, clients)
			case "write":
				l.repeat(client, func(member *clientv3.Client, key string) error {
					_, err := member.Put(context.Background(), key, l.value)
					return err
				})
			case "read":
				l.repeat(client, func(member *clientv3.Client, key string) error {
					_, err := member.Get(context.Background(), key)
					return err
				})
			case "watch":
				l.watch(client)
			default:
				log.Fatalf("no such operation: %s", operation)
			}
		}(client)
	}
	time.Sleep(time.Until(l.begin))
	before := processorSeconds()
	time.Sleep(time.Until(l.end))
	spent := processorSeconds() - before
	running.Wait()

	answer := result{l.end.Sub(l.begin).Seconds(), spent, l.total, map[string][][2]int{}}
	for name, counts := range l.counts {
		for latency, count := range counts {
			answer.Latencies[name] = append(answer.Latencies[name], [2]int{latency, count})
		}
	}
	must(json.NewEncoder(os.Stdout).Encode(answer))
}
