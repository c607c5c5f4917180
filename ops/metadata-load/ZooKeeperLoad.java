import com.sun.management.OperatingSystemMXBean;
import java.lang.management.ManagementFactory;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import java.util.TreeMap;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.LinkedBlockingQueue;
import java.util.concurrent.ThreadLocalRandom;
import java.util.concurrent.atomic.AtomicIntegerArray;
import java.util.concurrent.atomic.LongAdder;
import org.apache.zookeeper.AddWatchMode;
import org.apache.zookeeper.CreateMode;
import org.apache.zookeeper.KeeperException;
import org.apache.zookeeper.Watcher;
import org.apache.zookeeper.ZooDefs;
import org.apache.zookeeper.ZooKeeper;

/**
 * Puts load on ZooKeeper for `ops/bench metadata`: ZooKeeperLoad ADDRESSES KEYS VALUE-BYTES OPERATION CLIENTS
 * WARM-UP-SECONDS SECONDS; prints what `LoadResult` reads.
 *
 * One session to each member; each client has one operation under way, by the asynchronous calls.
 */
final class ZooKeeperLoad {
    private static final int LATENCY_MICROSECONDS_MAX = 4_000_000;

    private final List<ZooKeeper> members = new ArrayList<>();
    private final int keys;
    private final byte[] value;
    private final CountDownLatch running;
    private final LongAdder total = new LongAdder();
    private final Map<String, AtomicIntegerArray> counts = new TreeMap<>();
    private long begin;
    private long end;

    public static void main(String[] arguments) throws Exception {
        new ZooKeeperLoad(arguments).run(
            arguments[3], Integer.parseInt(arguments[4]), Double.parseDouble(arguments[5]),
            Double.parseDouble(arguments[6]));
        System.exit(0);
    }

    private ZooKeeperLoad(String[] arguments) throws Exception {
        keys = Integer.parseInt(arguments[1]);
        value = "v".repeat(Integer.parseInt(arguments[2])).getBytes();
        running = new CountDownLatch(Integer.parseInt(arguments[4]));
        for (String address : arguments[0].split(",")) {
            CountDownLatch connected = new CountDownLatch(1);
            members.add(new ZooKeeper(address, 30_000, event -> {
                if (event.getState() == Watcher.Event.KeeperState.SyncConnected) connected.countDown();
            }));
            connected.await();
        }
        String[] names = arguments[3].equals("watch") ? new String[] {"from start", "from answer"} : new String[] {""};
        for (String name : names) counts.put(name, new AtomicIntegerArray(LATENCY_MICROSECONDS_MAX + 1));
    }

    private void run(String operation, int clients, double warmUp, double seconds) throws Exception {
        begin = System.nanoTime() + (long) (warmUp * 1e9);
        end = begin + (long) (seconds * 1e9);
        if (operation.equals("fill")) {
            fill();
        } else {
            for (int client = 0; client < clients; client++) start(operation, client);
        }
        sleepUntil(begin);
        long before = processorNanoseconds();
        sleepUntil(end);
        double processor = (processorNanoseconds() - before) / 1e9;
        if (!operation.equals("fill")) running.await();
        print(seconds, processor);
    }

    private void start(String operation, int client) {
        ZooKeeper member = members.get(client % members.size());
        if (operation.equals("watch")) {
            new Thread(() -> {
                try {
                    watch(client);
                } catch (Exception error) {
                    fail(error.toString());
                }
            }).start();
            return;
        }
        long began = System.nanoTime();
        if (began >= end) {
            running.countDown();
            return;
        }
        String key = key(ThreadLocalRandom.current().nextInt(keys));
        Runnable done = () -> {
            long now = System.nanoTime();
            note("", now, now - began);
            start(operation, client);
        };
        switch (operation) {
            case "write" -> member.setData(key, value, -1, (code, path, context, stat) -> check(code, done), null);
            // Linearizable: the leader is heard first. The same session answers in sequence.
            case "read" -> {
                member.sync(key, (code, path, context) -> check(code, () -> {}), null);
                member.getData(key, false, (code, path, context, found, stat) -> check(code, done), null);
            }
            // What this member knows, be it old.
            case "read-local" ->
                member.getData(key, false, (code, path, context, found, stat) -> check(code, done), null);
            default -> fail("no such operation: " + operation);
        }
    }

    private void watch(int client) throws Exception {
        ZooKeeper writer = members.get(client % members.size());
        ZooKeeper watcher = members.get((client + 1) % members.size());
        LinkedBlockingQueue<Long> told = new LinkedBlockingQueue<>();
        watcher.addWatch(key(client), event -> {
            if (event.getType() == Watcher.Event.EventType.NodeDataChanged) told.add(System.nanoTime());
        }, AddWatchMode.PERSISTENT);
        for (long began = System.nanoTime(); began < end; began = System.nanoTime()) {
            CompletableFuture<Long> acknowledged = new CompletableFuture<>();
            writer.setData(
                key(client), value, -1,
                (code, path, context, stat) -> check(code, () -> acknowledged.complete(System.nanoTime())), null);
            long event = told.take();
            note("from start", event, event - began);
            note("from answer", event, Math.max(0, event - acknowledged.get()));
        }
        running.countDown();
    }

    private void fill() throws Exception {
        CountDownLatch filled = new CountDownLatch(keys + 1);
        create("/bench", filled);
        for (int number = 0; number < keys; number++) create(key(number), filled);
        filled.await();
    }

    private void create(String key, CountDownLatch filled) {
        members.get(0).create(
            key, value, ZooDefs.Ids.OPEN_ACL_UNSAFE, CreateMode.PERSISTENT,
            (code, path, context, name) -> check(code, filled::countDown), null);
    }

    private static String key(int number) {
        return String.format("/bench/%06d", number);
    }

    private static void check(int code, Runnable done) {
        if (code == 0) done.run(); else fail(KeeperException.Code.get(code).toString());
    }

    private static void fail(String message) {
        System.err.println(message);
        System.exit(1);
    }

    private void note(String name, long now, long nanoseconds) {
        total.increment();
        if (now < begin || now > end) return;
        counts.get(name).incrementAndGet((int) Math.min(LATENCY_MICROSECONDS_MAX, nanoseconds / 1_000));
    }

    private static void sleepUntil(long nanoTime) throws InterruptedException {
        long left = nanoTime - System.nanoTime();
        if (left > 0) Thread.sleep(left / 1_000_000, (int) (left % 1_000_000));
    }

    private static long processorNanoseconds() {
        return ((OperatingSystemMXBean) ManagementFactory.getOperatingSystemMXBean()).getProcessCpuTime();
    }

    private void print(double seconds, double processor) {
        List<String> series = new ArrayList<>();
        for (Map.Entry<String, AtomicIntegerArray> entry : counts.entrySet()) {
            List<String> pairs = new ArrayList<>();
            for (int latency = 0; latency <= LATENCY_MICROSECONDS_MAX; latency++) {
                int count = entry.getValue().get(latency);
                if (count > 0) pairs.add("[" + latency + "," + count + "]");
            }
            series.add("\"" + entry.getKey() + "\":[" + String.join(",", pairs) + "]");
        }
        System.out.println(
            "{\"seconds\":" + seconds + ",\"processor\":" + processor + ",\"total\":" + total.sum() / counts.size()
                + ",\"latencies\":{" + String.join(",", series) + "}}");
    }
}
