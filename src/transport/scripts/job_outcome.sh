# Says how a run ended: `exited CODE`, `killed RESULT` or `running`. Arguments: run, unit.
root=${LANE_HOST_ROOT:-}
run=$root/var/lib/lane/runs/$1 unit=$2
exited() { if [ -e "$run/exit" ]; then echo "exited $(cat "$run/exit")"; exit; fi; }
exited
ours=$(systemctl show --property=Description --value "$unit")
case $(systemctl show --property=ActiveState --value "$unit") in
active | activating | deactivating | reloading | refreshing)
    if [ "$ours" = "lane run $1" ]; then exited; echo running; exit; fi ;;
failed)
    if [ "$ours" = "lane run $1" ]; then exited; echo "killed $(systemctl show --property=Result --value "$unit")"; exit; fi ;;
esac
exited
echo "killed gone"
