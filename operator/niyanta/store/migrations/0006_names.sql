-- Workloads of a name, newest first. Nothing asks for a namespace and name alone.
CREATE INDEX workloads_named ON workloads (customer_id, name, created_at DESC, id DESC);
DROP INDEX workloads_name;
