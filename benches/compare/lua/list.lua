-- The paths of a file, one after the other and then from the start.
local requests, n = {}, 0
function init(args)
  local by_path = {} -- hot paths are there many times: one string each
  for path in io.lines(args[1]) do
    by_path[path] = by_path[path] or wrk.format(nil, path)
    requests[#requests + 1] = by_path[path]
  end
end
function request()
  n = n % #requests + 1
  return requests[n]
end
